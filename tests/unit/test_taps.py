"""Reading a tail on its way: what is read is what the trunk up to there computes."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, fx, nn

from badexpert.batchnorm import fold_batch_norm
from badexpert.errors import AuditError
from badexpert.split import Cut, NetworkGraph
from badexpert.taps import VALUES, as_rows, tapped
from tests.unit.test_split import NETWORKS, graph_of, images, same


def tail_of(graph: NetworkGraph, cut: Cut) -> fx.GraphModule:
    _, tail = graph.split(cut)
    assert isinstance(tail, fx.GraphModule)
    return tail.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_place_shows_what_a_cut_there_would_hand_on(name: str) -> None:
    network, graph = graph_of(name)
    cut, x = graph.default_cut(), images(3)
    trunk, _ = graph.split(cut)
    behind = graph.cuts[graph.cuts.index(cut) :]
    for there in behind:
        with torch.no_grad():
            result, rows = tapped(tail_of(graph, cut), cut.node, (there.node,))(trunk(x))
            assert same(result, network(x))
            assert same(rows, as_rows(graph.split(there)[0](x)))


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_batch_norm_shows_the_same(name: str) -> None:
    _, graph = graph_of(name)
    cut = graph.default_cut()
    trunk, _ = graph.split(cut)
    look = tapped(tail_of(graph, cut), cut.node, graph.last_places(cut))
    with torch.no_grad():
        features = trunk(images(3))
        (result, rows), (folded, folded_rows) = look(features), fold_batch_norm(look)(features)
    for one, other in ((result, folded), (rows, folded_rows)):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


def test_the_last_place_is_where_the_last_layer_begins() -> None:
    _, graph = graph_of("no batch-norm")
    (place,) = graph.last_places(graph.default_cut())
    (last,) = (cut for cut in graph.cuts if cut.node == place)
    assert last.tail_layers == 1


def test_before_one_position_of_a_sequence_comes_the_sequence() -> None:
    network, graph = graph_of("vit")
    cut, x = graph.default_cut(), images(3)
    trunk, _ = graph.split(cut)
    assert isinstance(network, VisionTransformer)
    sequence, token = graph.last_places(cut)
    with torch.no_grad():
        _, rows = tapped(tail_of(graph, cut), cut.node, (sequence, token))(trunk(x))
        tokens = network.forward_features(x)
        assert same(rows, torch.cat([as_rows(tokens), tokens[:, 0]], 1))
    assert graph.last_places(graph.cuts[-1]) == (token,)


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "flattened by view"])
def test_where_there_is_no_sequence_there_is_one_place(name: str) -> None:
    _, graph = graph_of(name)
    assert graph.last_places(graph.cuts[0]) == (graph.cuts[-1].node,)


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        before = x * 1
        scores: Tensor = self.head(before.relu_())
        return scores


def test_an_operation_in_place_does_not_reach_what_was_read_before_it() -> None:
    torch.manual_seed(0)
    network, x = InPlace().eval(), torch.randn(5, 4)
    graph = NetworkGraph(network, x)
    look = tapped(tail_of(graph, graph.cuts[0]), graph.cuts[0].node, ("mul",))
    with torch.no_grad():
        _, rows = look(x)
        assert torch.equal(rows, network.stem(x))
        assert (rows < 0).any()


def test_an_unknown_place_is_refused() -> None:
    _, graph = graph_of("no batch-norm")
    cut = graph.default_cut()
    with pytest.raises(AuditError, match="no place 'nowhere' behind its cut"):
        tapped(tail_of(graph, cut), cut.node, ("nowhere",))


@pytest.mark.parametrize("shape", [(3, 7), (3, 64, 16, 16), (3, 250, 96), (3, 1024, 2, 2)])
def test_rows_are_small_and_their_own(shape: tuple[int, ...]) -> None:
    output = torch.randn(shape)
    rows = as_rows(output)
    assert rows.shape[0] == 3
    assert rows.shape[1] <= VALUES
    assert torch.allclose(rows.mean(1), output.flatten(1).mean(1), atol=1e-5)
    output.zero_()
    assert rows.abs().sum() > 0


def test_no_inputs_give_no_rows() -> None:
    assert as_rows(torch.zeros(0, 64, 16, 16)).shape == (0, 256)
