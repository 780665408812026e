"""Cutting networks in two: the halves together are the network, wherever it is cut."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torchvision.models.densenet import DenseNet
from torchvision.models.googlenet import GoogLeNet

from badexpert.errors import AuditError
from badexpert.models.origin import digest_module
from badexpert.split import Cut, NetworkGraph

CLASSES = 5
SIDE = 32


class FlattenedByView(nn.Module):
    """A perceptron that reads the batch size off its input, before the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(3 * SIDE * SIDE, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(torch.relu(self.hidden(x.view(x.size(0), -1))))
        return scores


class Recurrent(nn.Module):
    """One convolution used three times: trunk and tail share its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.conv, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = relu(self.conv(x))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class PixelsAgain(nn.Module):
    """Adds the input to deep features: while it is needed, no place is a cut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head((relu(self.conv(x)) + x).mean((2, 3)))
        return scores


class Fold(nn.Module):
    """Treats every image as four, then joins them by a batch size that it read at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        quarters = self.conv(x).reshape(batch * 4, 4, SIDE // 2, SIDE // 2)
        means = relu(quarters).mean((2, 3)).view(batch, 4, 4).mean(1)
        scores: Tensor = self.head(means)
        return scores


class LateToken(nn.Module):
    """Expands a learned token to the batch before it looks at the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.patches, self.mix = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        token = self.token.expand(x.shape[0], -1, -1)
        tokens = torch.cat([token, self.patches(x).flatten(2).transpose(1, 2)], 1)
        scores: Tensor = self.head(relu(self.mix(tokens)).mean(1))
        return scores


class Gated(nn.Module):
    """Splits its features in two and uses the halves at different times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.deep = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        values, gate = self.conv(x).chunk(2, dim=1)
        scores: Tensor = self.head((relu(self.deep(values)) * gate.sigmoid()).mean((2, 3)))
        return scores


class WrittenInto(nn.Module):
    """Changes its features in place, also through a view and an index."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.deep = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.flatten(1).relu_()
        z = self.deep(y)
        z += y
        z[:, 1] = z[:, 2] * 2
        scores: Tensor = self.head((z + y).mean((2, 3)))
        return scores


class FixedHead(nn.Module):
    """Ends in a product with prototypes that nobody trains."""

    prototypes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.embed = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 8)
        self.register_buffer("prototypes", torch.randn(8, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.embed(relu(self.conv(x)).mean((2, 3)))) @ self.prototypes


class Branching(nn.Module):
    """Takes a decision that depends on the pixels: there is no one graph of it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = FlattenedByView()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.inner(x)
        return -scores if bool(x.mean() > 2) else scores


def without_batch_norm() -> nn.Module:
    """In-place activations right behind the layers that a cut follows, and dropout."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.LeakyReLU(0.3, inplace=True),  # a second time, it would change its own output
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(inplace=True),
        nn.Dropout2d(0.5),
        nn.Flatten(),
        nn.Linear(200, 32),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(32, CLASSES),
    )


def timm_model(name: str, **arguments: object) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=CLASSES, **arguments)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": timm_model("resnet10t"),
    "vgg": timm_model("vgg11_bn", mlp_ratio=0.0625),
    "mobilenet": timm_model("mobilenetv2_035"),
    "vit": timm_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=64, depth=2, num_heads=2
    ),
    "swin": timm_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        patch_size=2,
        window_size=4,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 2),
    ),
    "densenet": lambda: DenseNet(4, (2, 2), 8, num_classes=CLASSES),
    "googlenet": lambda: GoogLeNet(num_classes=CLASSES, aux_logits=False, init_weights=False),
    "no batch-norm": without_batch_norm,
    "flattened by view": FlattenedByView,
    "recurrent": Recurrent,
    "pixels again": PixelsAgain,
    "fold": Fold,
    "late token": LateToken,
    "gated": Gated,
    "written into": WrittenInto,
    "fixed head": FixedHead,
}
SMALL = [name for name, make in NETWORKS.items() if isinstance(make, type)] + ["no batch-norm"]


@cache
def graph_of(name: str) -> tuple[nn.Module, NetworkGraph]:
    torch.manual_seed(0)
    network = settled(NETWORKS[name]())
    return network, NetworkGraph(network, torch.zeros(2, 3, SIDE, SIDE))


@torch.no_grad()
def settled(network: nn.Module) -> nn.Module:
    """In eval mode, with batch-norm statistics of real features: fresh ones let signals fade."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    network.train()(images(8))
    return network.eval()


def images(count: int) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(count))


def same(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_halves_are_the_network_for_every_cut_and_batch_size(name: str) -> None:
    network, graph = graph_of(name)
    with torch.no_grad():
        expected = {count: network(images(count)) for count in (1, 3)}
        assert not same(expected[3][0], expected[3][1])
        # All cuts, but every second or third of long networks, which repeat themselves.
        for cut in graph.cuts[:: 1 + len(graph.cuts) // 30]:
            trunk, tail = graph.split(cut)
            for count, scores in expected.items():
                features = trunk(images(count))
                assert len(features) == count, f"{cut}: no row of its own for each image"
                assert same(tail(features), scores), cut
                assert same(tail(features), scores), f"{cut}: the tail spoils its input"


@pytest.mark.parametrize("name", NETWORKS)
def test_tails_shrink_along_the_network_and_never_to_nothing(name: str) -> None:
    _, graph = graph_of(name)
    shares = [cut.tail_share for cut in graph.cuts]
    assert shares == sorted(shares, reverse=True)
    assert 0 < shares[-1] <= shares[0] <= 1
    assert len({cut.node for cut in graph.cuts}) == len(graph.cuts)


@pytest.mark.parametrize("name", SMALL)
def test_every_tail_has_something_to_tune(name: str) -> None:
    _, graph = graph_of(name)
    for cut in graph.cuts:
        trunk, tail = graph.split(cut)
        tail(trunk(images(2))).sum().backward()
        assert any(values.grad is not None for values in tail.parameters()), cut


def test_the_share_counts_the_operations_behind_the_cut() -> None:
    network = nn.Sequential(nn.Linear(30, 10), nn.Linear(10, 20), nn.Linear(20, 5))
    graph = NetworkGraph(network.eval(), torch.zeros(2, 30))
    assert [cut.tail_share for cut in graph.cuts] == pytest.approx([1, 300 / 600, 100 / 600])


@pytest.mark.parametrize("share", [0.9, 0.5, 0.15, 0.05])
def test_the_earliest_affordable_cut_is_chosen(share: float) -> None:
    _, graph = graph_of("vit")
    chosen = graph.at_share(share)
    assert chosen.tail_share <= share
    earlier = graph.cuts[: graph.cuts.index(chosen)]
    assert all(cut.tail_share > share for cut in earlier)


def test_a_share_below_all_takes_the_last_cut_and_a_full_share_the_whole_network() -> None:
    _, graph = graph_of("vit")
    assert graph.at_share(1e-12) == graph.cuts[-1]
    whole = graph.at_share(1.0)
    assert whole == graph.cuts[0]
    assert whole.tail_share == 1
    assert isinstance(graph.split(whole)[0], nn.Identity)


@pytest.mark.parametrize("name", ["recurrent", "no batch-norm", "densenet"])
def test_the_trunk_is_frozen_the_tail_is_tuned_and_the_network_stays_as_it_was(name: str) -> None:
    network, graph = graph_of(name)
    digest, before = digest_module(network), network(images(3))
    trunk, tail = graph.split(graph.cuts[len(graph.cuts) // 2])
    features = trunk(images(3))
    assert not features.requires_grad
    assert not any(values.requires_grad for values in trunk.parameters())
    optimizer = torch.optim.SGD(tail.parameters(), lr=0.1)
    tail(features).square().sum().backward()
    optimizer.step()
    assert not same(tail(features), before)
    assert digest_module(network) == digest
    assert all(values.requires_grad for values in network.parameters())
    assert torch.equal(trunk(images(3)), features)


def test_two_tails_are_tuned_apart() -> None:
    _, graph = graph_of("no batch-norm")
    cut = graph.at_share(0.5)
    (trunk, first), (_, second) = graph.split(cut), graph.split(cut)
    untouched = second(trunk(images(2)))
    with torch.no_grad():
        for values in first.parameters():
            values.zero_()
    assert torch.equal(second(trunk(images(2))), untouched)


def test_halves_can_be_copied() -> None:
    network, graph = graph_of("swin")
    trunk, tail = map(copy.deepcopy, graph.split(graph.at_share(0.3)))
    assert same(tail(trunk(images(3))), network(images(3)))


def test_dropout_stays_off_in_a_tail_that_is_being_tuned() -> None:
    network, graph = graph_of("no batch-norm")
    trunk, tail = graph.split(graph.cuts[1])
    assert torch.equal(tail.train()(trunk(images(3))), network(images(3)))


def test_a_network_without_a_graph_says_what_to_do_and_nothing_else(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(AuditError, match="cannot be exported.*tail_share = 1"):
        NetworkGraph(Branching().eval(), torch.zeros(2, 3, SIDE, SIDE))
    assert capfd.readouterr() == ("", "")


def test_a_network_of_one_layer_is_tuned_whole() -> None:
    graph = NetworkGraph(nn.Linear(4, CLASSES).eval(), torch.zeros(2, 4))
    assert [cut.tail_share for cut in graph.cuts] == [1]
    assert graph.default_cut() == graph.at_share(0.1) == graph.cuts[0]


def test_an_unknown_cut_is_refused_by_name() -> None:
    _, graph = graph_of("vit")
    with pytest.raises(AuditError, match="cannot be cut after 'conv2d_99'"):
        graph.split(Cut("conv2d_99", 0.1))


class Saturated(nn.Module):
    """Ends in a softmax that rounds to one and zero, and in its clamped logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(3 * SIDE * SIDE, 16), nn.Linear(16, CLASSES)

    def scores(self, x: Tensor) -> Tensor:
        scores: Tensor = 1000 * self.head(torch.relu(self.hidden(x.flatten(1))))
        return scores

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x).softmax(1).clamp_min(1e-38).log()


def test_a_softmax_at_the_end_is_tuned_through_its_logarithm() -> None:
    torch.manual_seed(0)
    network = Saturated().eval()
    graph = NetworkGraph(network, torch.rand(2, 3, SIDE, SIDE))
    pixels = torch.rand(4, 3, SIDE, SIDE)
    trunk, tail = graph.split(graph.cuts[0])
    expected = network.scores(pixels).log_softmax(1)
    assert expected.min() < -100
    assert torch.allclose(tail(trunk(pixels)), expected, rtol=1e-4, atol=1e-3)
    tail(trunk(pixels)).min().backward()
    assert all(values.grad is not None for values in tail.parameters())
    assert any(values.grad.abs().sum() > 0 for values in tail.parameters())
