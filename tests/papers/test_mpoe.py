"""MPOE (Gao et al., COLING 2022, arXiv:2203.01104)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe_core.experts.mpo import MPOExperts, SharedChains, balanced_factors, mask_gradient
from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.layer import MoELayer
from moe_core.mpo import Factors, decompose, parameter_ratio, reconstruct
from moe_core.mpo_fit import fit_shared, relative_errors
from moe_core.routers.top_k import SoftmaxTopK

T5 = Factors((4, 4, 8, 6, 4), (3, 4, 4, 4, 4))
SMALL = Factors((3, 2, 4), (2, 5, 2))
factor_pairs = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=5)


def random(factors: Factors, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(factors.shape, generator=generator, dtype=torch.float64)


def chains(num_experts: int = 4, **options) -> SharedChains:
    matrices = torch.stack([random(SMALL, seed) for seed in range(num_experts)]).float()
    return SharedChains(fit_shared(matrices, SMALL), SMALL, **options)


def test_bonds_and_parameters_of_t5_base() -> None:
    assert sorted(T5.shape) == [768, 3072]
    assert T5.bonds == (1, 12, 192, 384, 16, 1)
    sizes = [math.prod(shape) for shape in T5.tensor_shapes]
    assert sizes == [144, 36864, 2359296, 147456, 256]
    assert T5.parameters == sum(sizes) == 2_544_016 > 768 * 3072
    assert sizes[T5.central] / T5.parameters == pytest.approx(0.927, abs=5e-4)


def test_eight_experts_with_one_central_tensor_hold_this_share_of_parameters() -> None:
    assert parameter_ratio(T5, 8) == pytest.approx(0.1885, abs=5e-5)
    assert parameter_ratio(T5, 1) == 1


@given(pairs=factor_pairs, seed=st.integers(0, 100))
@settings(deadline=None, max_examples=40)
def test_full_rank_reconstruction_is_exact(pairs, seed):
    factors = Factors(*map(tuple, zip(*pairs, strict=True)))
    matrix = random(factors, seed)
    tensors, discarded = decompose(matrix, factors)
    assert (reconstruct(tensors) - matrix).abs().max() < 1e-10
    assert discarded == 0


@given(pairs=factor_pairs, seed=st.integers(0, 100), max_bond=st.integers(1, 6))
@settings(deadline=None, max_examples=40)
def test_the_truncation_error_is_the_sum_of_discarded_squares(pairs, seed, max_bond):
    factors = Factors(*map(tuple, zip(*pairs, strict=True)), max_bond=max_bond)
    matrix = random(factors, seed)
    tensors, discarded = decompose(matrix, factors)
    error = (reconstruct(tensors) - matrix).square().sum()
    torch.testing.assert_close(error, discarded, rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("max_bond", [None, 4])
def test_all_tensors_but_the_last_are_orthonormal_from_the_left(max_bond) -> None:
    factors = Factors((3, 2, 4), (2, 5, 2), max_bond)
    for tensor in decompose(random(factors), factors)[0][:-1]:
        columns = tensor.flatten(0, 2)
        eye = torch.eye(columns.shape[1], dtype=torch.float64)
        torch.testing.assert_close(columns.T @ columns, eye, rtol=0, atol=1e-12)


@given(pairs=factor_pairs, max_bond=st.none() | st.integers(1, 6))
@settings(deadline=None, max_examples=40)
def test_the_parameter_formula_counts_what_is_stored(pairs, max_bond):
    factors = Factors(*map(tuple, zip(*pairs, strict=True)), max_bond=max_bond)
    tensors, _ = decompose(random(factors), factors)
    assert [tuple(tensor.shape) for tensor in tensors] == factors.tensor_shapes
    assert sum(tensor.numel() for tensor in tensors) == factors.parameters


def test_a_hand_worked_chain() -> None:
    # The Kronecker product of two matrices is a chain whose only bond has width 1.
    left, right = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    factors = Factors((2, 2), (2, 2), max_bond=1)
    tensors, discarded = decompose(torch.kron(left, right), factors)
    assert discarded < 1e-10
    torch.testing.assert_close(reconstruct(tensors), torch.kron(left, right))


def test_the_central_tensor_is_the_same_object_for_all_experts() -> None:
    bank = chains()
    assert all(bank.chain(expert)[SMALL.central] is bank.central for expert in range(4))
    assert sum(parameter is bank.central for parameter in bank.parameters()) == 1


def test_the_gradient_of_the_central_tensor_is_the_sum_over_experts() -> None:
    bank = chains(update_share=1.0)
    weights = torch.randn(4, *SMALL.shape)
    (whole,) = torch.autograd.grad((bank() * weights).sum(), bank.central)
    parts = [
        torch.autograd.grad((reconstruct(bank.chain(e)) * weights[e]).sum(), bank.central)[0]
        for e in range(4)
    ]
    torch.testing.assert_close(whole, sum(parts))


@torch.no_grad()
def test_editing_the_central_tensor_changes_all_experts_and_an_auxiliary_only_one() -> None:
    bank = chains()
    before = bank()
    bank.chain(2)[0].mul_(2)
    changed = [not torch.equal(*pair) for pair in zip(before, bank(), strict=True)]
    assert changed == [False, False, True, False]
    before = bank()
    bank.central.mul_(2)
    assert all(not torch.equal(*pair) for pair in zip(before, bank(), strict=True))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_masked_share_of_the_gradient_is_one_minus_the_update_share(share) -> None:
    torch.manual_seed(0)
    tensor = torch.zeros(100, 100, requires_grad=True)
    mask_gradient(tensor, share).sum().backward()
    masked = (tensor.grad == 0).float().mean().item()
    assert masked == pytest.approx(1 - share, abs=4 * 0.5 / 100)
    assert set(tensor.grad.unique().tolist()) <= {0.0, 1.0}


def test_only_training_masks_only_the_central_tensor_by_one_over_the_experts() -> None:
    torch.manual_seed(0)
    bank = chains(4)
    assert bank.update_share == 1 / 4
    bank().sum().backward()
    assert 0.5 < (bank.central.grad == 0).float().mean() < 0.95
    assert all((auxiliary.grad != 0).all() for auxiliary in bank.auxiliaries)
    bank.zero_grad()
    bank.eval()().sum().backward()
    assert (bank.central.grad != 0).all()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_deficient_matrix_gives_finite_results(rank) -> None:
    matrix = random(SMALL)[:, :rank] @ random(SMALL)[:rank]
    tensors, _ = decompose(matrix, SMALL)
    assert all(tensor.isfinite().all() for tensor in tensors)
    torch.testing.assert_close(reconstruct(tensors), matrix)
    assert all(tensor.isfinite().all() for tensor in fit_shared(matrix.expand(2, -1, -1), SMALL))


def test_equal_experts_are_converted_exactly_and_back() -> None:
    experts = SwiGLUExperts(12, 16, 1)
    copies = SwiGLUExperts(12, 16, 4)
    with torch.no_grad():
        copies.gate_up_proj.copy_(experts.gate_up_proj.expand(4, -1, -1))
        copies.down_proj.copy_(experts.down_proj.expand(4, -1, -1))
    back = MPOExperts.from_swiglu(copies).to_swiglu()
    torch.testing.assert_close(back.gate_up_proj, copies.gate_up_proj, rtol=0, atol=1e-6)
    torch.testing.assert_close(back.down_proj, copies.down_proj, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_conversion_keeps_the_dtype_of_a_checkpoint(dtype) -> None:
    experts = SwiGLUExperts(12, 16, 1).to(dtype)
    back = MPOExperts.from_swiglu(experts).to_swiglu()
    assert {part.dtype for part in back.parameters()} == {dtype}
    torch.testing.assert_close(back.down_proj, experts.down_proj, rtol=0, atol=2e-3)


def test_a_converted_layer_computes_what_its_plain_twin_computes() -> None:
    torch.manual_seed(0)
    layer = MoELayer(SoftmaxTopK(12, 4), SwiGLUExperts(12, 16, 4))
    converted = MPOExperts.from_swiglu(layer.experts)
    x = torch.randn(10, 12)
    by_chains = MoELayer(layer.router, converted)(x).hidden
    by_matrices = MoELayer(layer.router, converted.to_swiglu())(x).hidden
    torch.testing.assert_close(by_chains, by_matrices)


def test_sweeps_never_make_the_fit_worse() -> None:
    base = random(SMALL, 9)
    matrices = torch.stack([base + 0.3 * random(SMALL, seed) for seed in range(3)])
    errors = [
        relative_errors(matrices, fit_shared(matrices, SMALL, sweeps=sweeps))
        for sweeps in (0, 1, 3)
    ]
    assert (errors[1] < errors[0]).all()
    assert (errors[2] <= errors[1] + 1e-12).all()


@torch.no_grad()
def test_writing_into_an_expert_changes_no_other() -> None:
    experts = MPOExperts(12, 16, 3)
    before = experts.to_swiglu()
    for tensor in experts.expert(1).values():
        tensor.zero_()
    after = experts.to_swiglu()
    assert torch.equal(before.gate_up_proj[[0, 2]], after.gate_up_proj[[0, 2]])
    assert after.gate_up_proj[1].abs().max() == after.down_proj[1].abs().max() == 0


@pytest.mark.parametrize("shape", [(768, 3072), (7, 1), (30, 64)])
def test_balanced_factors_multiply_to_the_shape(shape) -> None:
    factors = balanced_factors(shape)
    assert factors.shape == shape
    assert max(factors.rows) == factors.rows[factors.central]


def test_factors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many factors"):
        Factors((2, 2), (4,))
    with pytest.raises(ValueError, match=r"matrix of shape \(2, 2\)"):
        decompose(torch.zeros(2, 2), SMALL)
