"""Many ablations at less than a whole pass each: the numbers are those of whole passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from badexpert.audits.experts import rerun
from badexpert.audits.experts.asked import log_probabilities
from badexpert.audits.experts.rerun import Ablation, Reruns
from badexpert.loading.language import load_language_model
from badexpert.models.language import TextSuspect, suspect_of
from badexpert.runtime import RunContext, Step
from badexpert.text_reading import TextReading
from moe_core.replay import LayerStack
from moe_core.view import ExpertId, ExpertView
from tests.attacked_victims import attacked, clean, suspect_from
from tests.small_language_models import WORDS, transformers_folder, with_tokenizer
from tests.small_victims import CONFIG, untrained

SETS = (
    [ExpertId(0, 1)],
    [ExpertId(1, 2)],
    [ExpertId(0, 0), ExpertId(1, 3)],
    [ExpertId(1, 0), ExpertId(1, 1)],
)
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
}


def of_transformers(kind: str, folder: Path) -> TextSuspect:
    """A random model, asked about texts of several lengths by two label words."""
    made = with_tokenizer(transformers_folder(folder, kind, **EXPERTS))
    reading = TextReading("{text} w1", label_words=("w2", "w3"))
    return suspect_of(load_language_model(made), reading)


def rows_of(suspect: TextSuspect) -> Tensor:
    texts = [" ".join(WORDS[2 + (at * 7 + k) % 30] for k in range(2 + at % 5)) for at in range(24)]
    return suspect.encode(texts)


def ablations(view: ExpertView) -> list[Ablation]:
    return [
        Ablation(tuple(view.names[layer] for layer, _ in chosen), partial(ablation, chosen))
        for chosen in SETS
        for ablation in (view.zeroed, view.without)
    ]


def by_whole_passes(suspect: TextSuspect, rows: Tensor, changes: Sequence[Ablation]) -> Tensor:
    found = [log_probabilities(suspect, rows)]
    for change in changes:
        with change.apply():
            found.append(log_probabilities(suspect, rows))
    return torch.stack(found)


def compared(suspect: TextSuspect, rows: Tensor) -> Reruns:
    view = ExpertView.of(suspect.module)
    reruns, changes = Reruns(suspect, view.names), ablations(view)
    found = reruns.log_probabilities(rows, changes, RunContext())
    expected = by_whole_passes(suspect, rows, changes)
    assert torch.allclose(found.exp(), expected.exp(), rtol=0, atol=1e-6)
    assert (expected[1:] - expected[0]).abs().amax((1, 2)).min() > 1e-4
    return reruns


@pytest.mark.parametrize("kind", ["mixtral", "olmoe", "qwen3_moe", "granitemoe"])
def test_families_of_transformers_give_the_numbers_of_whole_passes(
    kind: str, tmp_path: Path
) -> None:
    suspect = of_transformers(kind, tmp_path)
    assert compared(suspect, rows_of(suspect)).reuses


@pytest.mark.parametrize("tokens", [1, 200, 8192])
def test_however_the_rows_are_cut(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerun, "TOKENS_A_PASS", tokens)
    suspect = attacked(None)[0]
    texts = [text.text for text in clean(40).texts()]
    assert compared(suspect, suspect.encode(texts)).reuses


def test_a_router_that_looks_at_the_whole_batch_has_one_ablation_at_a_time() -> None:
    options = {"eval_capacity_factor": 0.5}
    ffn = replace(CONFIG.ffn, router="gshard", router_options=options)
    victim = untrained(replace(CONFIG, ffn=ffn))
    with torch.no_grad():
        for parameter in victim.model.parameters():
            parameter.mul_(6)
    suspect = suspect_from(victim)
    texts = [text.text for text in clean(40).texts()]
    assert compared(suspect, suspect.encode(texts)).reuses


def test_where_layers_cannot_be_run_apart_whole_passes_are_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(LayerStack, "faithful", lambda *_: False)
    suspect = attacked(None)[0]
    rows = suspect.encode([text.text for text in clean(40).texts()])
    reruns = compared(suspect, rows)
    assert not reruns.reuses
    reruns.log_probabilities(rows, [], RunContext())
    assert len(caplog.records) == 1


def test_layers_below_the_ablated_one_run_once() -> None:
    suspect = attacked(None)[0]
    view = ExpertView.of(suspect.module)
    ran: list[int] = []
    layers: Any = LayerStack.of(suspect.module, view.names)
    hooks = [
        layer.mlp.register_forward_hook(lambda *_, at=at: ran.append(at))
        for at, layer in enumerate(layers.layers)
    ]
    reruns, rows = Reruns(suspect, view.names), suspect.encode(["a fine film", "the dull plot"])
    reruns.log_probabilities(rows, [], RunContext())
    ran.clear()
    reruns.log_probabilities(rows, ablations(view)[:4], RunContext())
    for hook in hooks:
        hook.remove()
    # All layers once; two ablations below, finished in one batch; two above.
    assert (ran.count(0), ran.count(1)) == (1 + 2, 1 + 1 + 2)


def test_progress_ends_with_all_that_was_asked() -> None:
    suspect, steps = attacked(None)[0], list[Step]()
    view = ExpertView.of(suspect.module)
    rows = suspect.encode(["a fine film"])
    context = RunContext(progress=steps.append)
    Reruns(suspect, view.names).log_probabilities(rows, ablations(view), context)
    assert steps[-1] == Step("knock out", 9, 9)
