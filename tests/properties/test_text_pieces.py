"""Rows of tokens go through a model in pieces: each once, and never more than permitted."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from badexpert.models.text_networks import TOKENS_A_PASS, pieces_of


@given(st.lists(st.integers(1, TOKENS_A_PASS * 2), min_size=1, max_size=40))
def test_pieces_hold_every_row_once_and_fit(sizes: list[int]) -> None:
    lengths = torch.tensor(sizes)
    order = lengths.argsort(stable=True)
    pieces = pieces_of(order, lengths)
    assert torch.cat(pieces).tolist() == order.tolist()
    for piece in pieces:
        assert len(piece) == 1 or len(piece) * int(lengths[piece].max()) <= TOKENS_A_PASS


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40))
def test_no_two_pieces_would_fit_together(sizes: list[int]) -> None:
    lengths = torch.tensor(sizes) * 100
    pieces = pieces_of(lengths.argsort(stable=True), lengths)
    for piece, following in pairwise(pieces):
        assert (len(piece) + 1) * int(lengths[following[0]]) > TOKENS_A_PASS
