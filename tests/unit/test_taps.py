"""Reading a tail on its way: what is read is what the trunk up to there computes."""

from __future__ import annotations

import pytest
import torch
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
def test_every_place_shows_what_a_cut_there_would_hand_on(name: str) -> None:
    network, graph = graph_of(name)
    cut, x = graph.default_cut(), images(3)
    places = graph.places(cut)
    trunk, _ = graph.split(cut)
    with torch.no_grad():
        result, rows = tapped(tail_of(graph, cut), cut.node, places)(trunk(x))
        assert same(result, network(x))
        for place, values in zip(places, rows, strict=True):
            (there,) = (each for each in graph.cuts if each.node == place)
            assert same(values, as_rows(graph.split(there)[0](x)))


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_batch_norm_shows_the_same(name: str) -> None:
    _, graph = graph_of(name)
    cut = graph.default_cut()
    trunk, _ = graph.split(cut)
    look = tapped(tail_of(graph, cut), cut.node, graph.places(cut))
    with torch.no_grad():
        features = trunk(images(3))
        (result, rows), (folded, folded_rows) = look(features), fold_batch_norm(look)(features)
    for one, other in zip((result, *rows), (folded, *folded_rows), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


def test_there_is_a_place_before_each_layer_of_the_tail() -> None:
    _, graph = graph_of("no batch-norm")
    cut = graph.default_cut()
    layers = [next(c.tail_layers for c in graph.cuts if c.node == p) for p in graph.places(cut)]
    assert layers == list(range(cut.tail_layers, 0, -1))


def test_a_deeper_cut_adds_no_places_and_a_later_one_takes_some_away() -> None:
    _, graph = graph_of("no batch-norm")
    usual = graph.places(graph.default_cut())
    assert graph.places(graph.cuts[0]) == usual
    assert graph.places(graph.cuts[-1]) == usual[-1:]


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
    look = tapped(tail_of(graph, graph.cuts[0]), graph.cuts[0].node, ["mul"])
    with torch.no_grad():
        _, (rows,) = look(x)
        assert torch.equal(rows, network.stem(x))
        assert (rows < 0).any()


def test_an_unknown_place_is_refused() -> None:
    _, graph = graph_of("no batch-norm")
    cut = graph.default_cut()
    with pytest.raises(AuditError, match="no place 'nowhere' behind its cut"):
        tapped(tail_of(graph, cut), cut.node, ["nowhere"])


@pytest.mark.parametrize("shape", [(3, 7), (3, 64, 16, 16), (3, 250, 96), (3, 1024, 2, 2)])
def test_rows_are_small_and_their_own(shape: tuple[int, ...]) -> None:
    output = torch.randn(shape)
    rows = as_rows(output)
    assert rows.shape[0] == 3
    assert rows.shape[1] <= max(VALUES, *shape[1:])
    assert torch.allclose(rows.mean(1), output.flatten(1).mean(1), atol=1e-5)
    output.zero_()
    assert rows.abs().sum() > 0


def test_no_inputs_give_no_rows() -> None:
    assert as_rows(torch.zeros(0, 64, 16, 16)).shape == (0, 256)
