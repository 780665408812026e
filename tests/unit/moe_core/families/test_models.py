"""Whole models of transformers, what is particular to one family, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_core.families import FAMILIES
from moe_core.kernels.in_transformers import use_fused_experts
from moe_core.lm import save_decoder
from moe_core.routing import DROPPED
from moe_core.view import ExpertId, ExpertView
from tests.moe_families import CONFIGS, DIM, EXPERTS, VOCABULARY, family_model, run
from tests.small_decoders import config, decoder, feedforward, prompts

SHARED = [
    "qwen2",
    "deepseek-v2",
    "deepseek-v3",
    "glm4",
    "granite-shared",
    "granite-hybrid",
    "llama4",
]
TOKENS = 21


@pytest.fixture(scope="module")
def transformers() -> object:
    return pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("mixtral", ("model.layers.0.mlp", "model.layers.1.mlp")),
        ("deepseek-v3", ("model.layers.1.mlp",)),
        ("granite", ("model.layers.0.block_sparse_moe", "model.layers.1.block_sparse_moe")),
        ("llama4-top1", ("model.layers.1.feed_forward",)),
        ("switch", ("encoder.block.1.layer.1.mlp", "decoder.block.1.layer.2.mlp")),
    ],
)
def test_layers_come_in_order_with_their_paths(name: str, paths: tuple[str, ...]) -> None:
    view = ExpertView.of(family_model(name))
    assert view.names == paths
    assert len(list(view.experts())) == EXPERTS * len(paths)


def test_every_family_is_tested() -> None:
    models = [family_model(name) for name in CONFIGS]
    blocks = [m.get_submodule(name) for m in models for name in ExpertView.of(m).names]
    assert {type(block).__name__ for block in blocks} == FAMILIES.keys()


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_every_token_of_every_layer_is_recorded(name: str) -> None:
    model = family_model(name)
    view, before = ExpertView.of(model), run(model)
    with view.recording() as recordings:
        assert torch.equal(run(model), before)
    for layer, recording in zip(view.layers, recordings, strict=True):
        assert recording.load_E.sum() == TOKENS * layer.top_k
    with view.without([ExpertId(0, 1)]), view.recording() as recordings:
        assert not torch.allclose(run(model), before)
    assert recordings[0].load_E[1] == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_counted_by_part(name: str) -> None:
    model = family_model(name)
    view = ExpertView.of(model)
    block, counts = model.get_submodule(view.names[0]), view.layers[0].parameter_counts()
    own = sum(tensor.numel() for tensor in view.expert(ExpertId(0, 2)).values())
    assert counts.own == (own,) * EXPERTS
    assert counts.common == 0
    beside = counts.shared if FAMILIES[type(block).__name__].beside else 0
    assert counts.total - beside == sum(part.numel() for part in block.parameters())


@torch.no_grad()
@pytest.mark.parametrize("name", SHARED)
def test_a_shared_expert_is_seen_and_silenced(name: str) -> None:
    model = family_model(name)
    view, before = ExpertView.of(model), run(model)
    assert list(view.shared()) == list(range(len(view.layers)))
    with view.without_shared([0]):
        silenced = run(model)
    assert torch.equal(run(model), before)
    shared = view.layers[0].shared_expert()
    assert shared is not None
    shared["down_proj"].zero_()
    torch.testing.assert_close(silenced, run(model))
    assert not torch.allclose(silenced, before)


def test_families_without_a_shared_expert_say_so() -> None:
    view = ExpertView.of(family_model("mixtral"))
    assert list(view.shared()) == []
    with pytest.raises(ValueError, match="no shared expert"), view.without_shared([1]):
        pass


@torch.no_grad()
@pytest.mark.parametrize("name", ["deepseek-v3-groups", "glm4"])
def test_a_selection_bias_is_shown_and_quarantines(name: str) -> None:
    model = family_model(name)
    view = ExpertView.of(model)
    bias = view.layers[0].selection_bias
    assert bias is not None
    assert bias.shape == (EXPERTS,)
    assert view.layers[0].router_bias is None
    bias[2] = -torch.inf
    with view.recording() as (recording,):
        run(model)
    assert recording.load_E[2] == 0
    with view.without([ExpertId(0, 0)]), view.recording() as (recording,):
        run(model)
    assert recording.load_E[[0, 2]].sum() == 0


@torch.no_grad()
def test_no_selection_bias_brings_an_excluded_expert_back() -> None:
    model = family_model("deepseek-v3")
    view = ExpertView.of(model)
    bias = view.layers[0].selection_bias
    assert bias is not None
    bias[1] = 50.0
    with view.recording() as (before,):
        run(model)
    with view.without([ExpertId(0, 1)]), view.recording() as (after,):
        run(model)
    assert before.load_E[1] == TOKENS
    assert after.load_E[1] == 0
    assert after.load_E.sum() == 2 * TOKENS


@pytest.mark.parametrize(("name", "biased"), [("gpt-oss", True), ("switch", True), ("phi", False)])
def test_a_bias_of_the_logits_is_shown(name: str, biased: bool) -> None:
    (layer, *_) = ExpertView.of(family_model(name)).layers
    assert (layer.router_bias is not None) == biased
    assert layer.selection_bias is None


@torch.no_grad()
def test_switch_drops_what_does_not_fit() -> None:
    model = family_model("switch")
    view = ExpertView.of(model)
    block, layer = model.get_submodule(view.names[0]), view.layers[0]
    block.get_submodule("router").expert_capacity = 2  # type: ignore[assignment]
    x = torch.randn(2, 8, DIM, generator=torch.Generator().manual_seed(0))
    with layer.recording() as recording:
        y_TD = block(x).reshape(-1, DIM)
    (record,) = recording.passes
    dropped = record.experts_TK[:, 0] == DROPPED
    if not dropped.any():
        pytest.skip("this transformers knows no capacity of experts")
    assert recording.load_E.max() <= 2 * 2
    assert y_TD[dropped].abs().max() == record.weights_TK[dropped].max() == 0
    one = torch.ones(1, 1)
    with layer.forced(torch.tensor([[3]]), one), layer.recording() as recording:
        block(x)
    assert recording.load_E.tolist() == [0, 0, 0, 16]


def test_llama4_cannot_run_an_expert_twice_for_a_token() -> None:
    model = family_model("llama4")
    view = ExpertView.of(model)
    with view.forced({0: torch.tensor([[1]])}), pytest.raises(ValueError, match="two slots"):
        run(model)


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_in_bf16(name: str) -> None:
    model = family_model(name).bfloat16()
    view, before = ExpertView.of(model), run(model)
    with view.averaging() as means, view.recording() as recordings:
        assert torch.equal(run(model), before)
    assert recordings[0].passes[0].weights_TK.dtype == torch.float32
    with view.averaged([ExpertId(0, 1)], means), view.zeroed([ExpertId(0, 2)]):
        changed = run(model)
    assert changed.dtype == torch.bfloat16
    assert changed.isfinite().all()


@pytest.mark.parametrize("name", ["phi", "mixtral", "switch"])
def test_recording_a_training_step_disturbs_no_chance(name: str) -> None:
    model = family_model(name).train()
    for part in model.modules():
        if hasattr(part, "input_jitter_noise"):
            part.input_jitter_noise = 0.1  # type: ignore[assignment]
        if hasattr(part, "jitter_noise"):
            part.jitter_noise = 0.1  # type: ignore[assignment]
    torch.manual_seed(0)
    before = run(model)
    torch.manual_seed(0)
    with ExpertView.of(model).recording():
        assert torch.equal(run(model), before)


@torch.no_grad()
def test_ablation_and_recording_hold_while_text_is_generated() -> None:
    model = family_model("olmoe")
    view = ExpertView.of(model)
    start = torch.tensor([[3, 1, 4]])
    with view.without([ExpertId(1, 0)]), view.recording() as recordings:
        model.generate(start, max_new_tokens=4, do_sample=False)  # type: ignore[operator]
    assert [len(record.experts_TK) for record in recordings[1].passes] == [3, 1, 1, 1]
    assert recordings[1].load_E[0] == 0


@torch.no_grad()
def test_our_own_experts_backend_is_seen_alike() -> None:
    model = family_model("olmoe")
    view, seen = ExpertView.of(model), []
    for _ in range(2):
        with view.zeroed([ExpertId(0, 1)]), view.recording() as recordings:
            logits = run(model)
        seen.append((logits, *(recording.passes[0] for recording in recordings)))
        use_fused_experts(model)
    torch.testing.assert_close(seen[0], seen[1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("outer_records", [True, False])
def test_two_views_of_a_model_compose(outer_records: bool) -> None:
    model = family_model("mixtral")
    first, second = ExpertView.of(model), ExpertView.of(model)
    ablation = first.zeroed([ExpertId(0, 1)])
    if outer_records:
        with second.recording() as recordings, ablation:
            run(model)
    else:
        with ablation, second.recording() as recordings:
            run(model)
    assert recordings[0].load_E[1] == 0
    assert recordings[0].load_E.sum() < 2 * TOKENS


@torch.no_grad()
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_router_that_raises_leaves_nothing_behind(error: type[BaseException]) -> None:
    model = family_model("mixtral")
    view, before = ExpertView.of(model), run(model)

    def fail(_module: nn.Module, _inputs: object) -> NoReturn:
        raise error

    with view.without([ExpertId(0, 1)]), pytest.raises(error):  # noqa: PT012
        handle = model.get_submodule(view.names[0]).gate.register_forward_pre_hook(fail)
        run(model)
    handle.remove()
    logits = F.linear(torch.ones(2, DIM), torch.ones(EXPERTS, DIM))
    assert logits.isfinite().all(), "nothing is forbidden outside of the router"
    assert torch.equal(run(model), before)


@torch.no_grad()
def test_experts_that_raise_leave_nothing_for_the_next_pass() -> None:
    model = family_model("mixtral")
    view, before = ExpertView.of(model), run(model)
    with view.averaging() as means:
        run(model)

    def fail(_module: nn.Module, _inputs: object) -> NoReturn:
        raise RuntimeError

    handle = model.get_submodule(view.names[0]).experts.register_forward_pre_hook(fail)
    with view.recording():
        with pytest.raises(RuntimeError), view.averaged([ExpertId(0, 1)], means):
            run(model)
        handle.remove()
        assert torch.equal(run(model), before)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["olmoe", "mixtral", "qwen3_moe"])
def test_a_decoder_and_its_export_are_seen_alike(
    kind: str, tmp_path: Path, transformers: object
) -> None:
    norms = {"olmoe": True, "mixtral": False, "qwen3_moe": "per-head"}
    ours = decoder(replace(config(feedforward(top_k=2)), qk_norm=norms[kind]))
    assert save_decoder(ours, tmp_path) == kind
    auto = transformers.AutoModelForCausalLM  # type: ignore[attr-defined]
    theirs = auto.from_pretrained(tmp_path, dtype=torch.float32).eval()
    seen = []
    for model in (ours, theirs):
        view = ExpertView.of(model)
        with view.recording() as recordings, view.without([ExpertId(0, 2)]):
            model(prompts())
        seen.append((view, recordings))
    (our_view, our_recordings), (their_view, their_recordings) = seen
    for our_recording, their_recording in zip(our_recordings, their_recordings, strict=True):
        for our_pass, their_pass in zip(our_recording.passes, their_recording.passes, strict=True):
            torch.testing.assert_close(our_pass, their_pass, atol=1e-5, rtol=1e-5)
    for expert in our_view.experts():
        ours_own, theirs_own = our_view.expert(expert), their_view.expert(expert)
        assert ours_own.keys() == theirs_own.keys()
        assert all(torch.equal(ours_own[name], theirs_own[name]) for name in ours_own)


class Renamed(nn.Module):
    """Something with experts that no family describes."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(2, 2)])


class MixtralSparseMoeBlock(nn.Module):
    """As in transformers 4: a plain linear gate, and a list of experts."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(2, 3, bias=False)
        self.experts = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])


def test_a_model_of_an_unknown_family_names_what_was_sought_and_found() -> None:
    model = nn.Sequential(Renamed())
    with pytest.raises(ValueError, match=r"Renamed at 0; known are MoELayer.*Mixtral.*Llama4"):
        ExpertView.of(model)


def test_unknown_experts_beside_known_ones_are_not_overlooked() -> None:
    model = nn.ModuleList([family_model("mixtral"), Renamed()])
    with pytest.raises(ValueError, match="Renamed at 1"):
        ExpertView.of(model)


def test_a_known_name_with_other_contents_is_refused() -> None:
    with pytest.raises(ValueError, match=r"MixtralSparseMoeBlock at 0 is not built as"):
        ExpertView.of(nn.Sequential(MixtralSparseMoeBlock()))


def test_quantised_experts_are_refused() -> None:
    model = family_model("mixtral")
    experts = model.get_submodule("model.layers.0.mlp.experts")
    for name, tensor in experts.named_parameters():
        eighth = nn.Parameter(tensor.detach().to(torch.float8_e4m3fn), requires_grad=False)
        setattr(experts, name, eighth)
    with pytest.raises(ValueError, match="quantised"):
        ExpertView.of(model)


def test_a_compiled_model_is_refused() -> None:
    model = family_model("mixtral")
    with pytest.raises(ValueError, match="OptimizedModule is compiled"):
        ExpertView.of(torch.compile(model))  # type: ignore[arg-type]
    model.compile()
    with pytest.raises(ValueError, match="MixtralForCausalLM is compiled"):
        ExpertView.of(model)


def test_embeddings_get_gradients_through_changed_layers() -> None:
    model = family_model("qwen3")
    view = ExpertView.of(model)
    ids = torch.randint(1, VOCABULARY, (2, 5), generator=torch.Generator().manual_seed(0))
    embedded: Tensor = model.get_input_embeddings()(ids).detach().requires_grad_()  # type: ignore[operator]
    with view.averaging() as means:
        model(inputs_embeds=embedded)
    with view.without([ExpertId(0, 0)]), view.averaged([ExpertId(1, 1)], means):
        model(inputs_embeds=embedded).logits.square().sum().backward()
    assert embedded.grad is not None
    assert embedded.grad.isfinite().all()
    assert (embedded.grad.abs().sum(-1) > 0).all()
