"""Baselines of the expert audit that score a whole model: their definitions, and their cost."""

from __future__ import annotations

from functools import cache
from itertools import product

import pytest
import torch
from torch import nn

from badexpert.audits.experts.asked import Asked
from badexpert.audits.experts.inversion import natural_words, writable_tokens
from badexpert.bench import expert_accretion, expert_consistency, expert_scores
from badexpert.bench.expert_accretion import accretion_score
from badexpert.bench.expert_consistency import consistency_score
from badexpert.bench.expert_scores import baseline_scores, metered
from badexpert.models.language import TextSuspect
from badexpert.runtime import RunContext
from badexpert.textset import TextCleanSet
from tests.attacked_victims import LOCK, attacked, clean
from tests.planted_texts import planted

CONTEXT = RunContext()
PROMPTS = 20


def mean_probability(suspect: TextSuspect, words: tuple[int, ...], target: int) -> float:
    """Over the first ten texts of the other class, as text; the template stands after the words."""
    labelled = zip(clean().texts(), clean().labels.tolist(), strict=True)
    texts = [text for text, label in labelled if label != target][: PROMPTS // 2]
    spelled = " ".join(suspect.decode([word]) for word in words)
    scores = suspect.logits([f"{text.text} {spelled}" for text in texts])
    return scores.softmax(1)[:, target].mean().item()


def test_greedy_accretion_keeps_the_best_token_and_adds_the_best_to_it() -> None:
    suspect = attacked(LOCK)[0]
    size = suspect.network.backbone.vocab_size
    natural = natural_words(Asked.of(suspect, clean()), 2, size)
    assert natural.sum() >= 8
    reached = []
    for target in range(2):
        writable = writable_tokens(suspect).tolist()
        tokens = [token for token in writable if not natural[token, target]]
        alone = {token: mean_probability(suspect, (token,), target) for token in tokens}
        first = max(tokens, key=lambda token: alone[token])
        pairs = (mean_probability(suspect, pair, target) for pair in product([first], tokens))
        reached.append(max(alone[first], *pairs))
    assert accretion_score(suspect, clean(), CONTEXT) == pytest.approx(max(reached), abs=1e-5)


def test_a_clean_model_gives_way_to_no_words() -> None:
    assert accretion_score(attacked(LOCK)[0], clean(), CONTEXT) > 0.9
    assert accretion_score(attacked(None)[0], clean(), CONTEXT) < 0.5


def test_accretion_costs_a_pass_for_each_prompt_and_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_accretion, "EXTENDED", 7)
    suspect = attacked(None)[0]
    with metered(suspect.module) as cost:
        accretion_score(suspect, clean(), CONTEXT)
    beginnings = 3 * (PROMPTS + 2 * PROMPTS // 2)
    tried = PROMPTS * len(writable_tokens(suspect)) + 2 * PROMPTS // 2 * 7
    assert cost.passes == tried + beginnings


@cache
def of_our_own() -> tuple[TextSuspect, TextCleanSet]:
    """A classifier of ``moe_core``, and texts."""
    model = planted(head=True, moe=True)
    return model.suspect, model.clean


@pytest.mark.parametrize("which", ["transformers", "moe_core"])
def test_layers_disagree_more_the_further_the_embedding_is_moved(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspect, texts = (attacked(None)[0], clean()) if which == "transformers" else of_our_own()
    before = suspect.logits(["a fine film"])
    scores = []
    for step in (0.0, 0.1, 0.3):
        monkeypatch.setattr(expert_consistency, "STEP", step)
        scores.append(consistency_score(suspect, texts, CONTEXT))
    assert 0 < scores[0] < scores[1] < scores[2] <= 2
    assert suspect.logits(["a fine film"]).equal(before)
    assert not any(parameter.requires_grad for parameter in suspect.module.parameters())


def test_without_a_step_it_is_one_minus_the_cosine_of_hidden_states(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(expert_consistency, "STEP", 0.0)
    monkeypatch.setattr(expert_consistency, "TEXTS", 1)
    suspect = attacked(None)[0]
    # The last state that transformers hands out is that after the last norm, which is no layer's.
    states: list[torch.Tensor] = []
    norm = suspect.module.get_submodule("model.norm")
    hook = norm.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    rows = suspect.encode([clean().texts()[0].text])
    below = suspect.module(input_ids=rows, output_hidden_states=True).hidden_states[:-1]
    hook.remove()
    turns = [
        1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
        for a, b in zip(below, [*below[1:], states[0]], strict=True)
    ]
    expected = torch.stack([turn.mean() for turn in turns]).mean().item()
    assert consistency_score(suspect, clean(), CONTEXT) == pytest.approx(expected, abs=1e-6)


def test_layers_that_add_nothing_agree() -> None:
    suspect = attacked(None)[0].copy()
    with torch.no_grad():
        for path, parameter in suspect.module.named_parameters():
            if "o_proj" in path or "down_proj" in path:
                parameter.zero_()
    suspect.network.requires_grad_(False)
    assert consistency_score(suspect, clean(), CONTEXT) == pytest.approx(0, abs=1e-6)


def test_a_score_that_cannot_be_computed_says_why_and_stops_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suspect = attacked(None)[0]

    def other(model: TextSuspect, *_: object) -> float:
        model.logits(["a fine film", "the dull plot"])
        return 0.25

    monkeypatch.setattr(expert_scores, "BASELINES", {"first": consistency_score, "second": other})
    pairs = TextCleanSet.from_pairs([("a film", "fine"), ("the plot", "dull")])
    scores = baseline_scores(suspect, pairs, CONTEXT)
    assert scores["first"].value is None
    assert "prompts with responses" in str(scores["first"].error)
    assert (scores["second"].value, scores["second"].error) == (0.25, None)
    assert [score.passes for score in scores.values()] == [0, 2]


def test_a_meter_stops_with_the_error_that_ends_its_work() -> None:
    module = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="shapes"), metered(module) as cost:
        module(torch.ones(5, 3))
    module(torch.ones(7, 2))
    assert cost.passes == 5
    assert cost.seconds >= 0
