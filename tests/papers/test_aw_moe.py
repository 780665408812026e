"""AW-MoE (Gong et al., ICDE 2023, arXiv:2306.05011)."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from moe_core.bench.ranking import VARIANTS, main
from moe_core.ranking import (
    AttentionEnsemble,
    AttentionGate,
    RankingModel,
    info_nce,
    mask_behaviours,
)
from moe_core.ranking.clicklog import FEATURES, ITEMS, LONGEST, TAIL, ClickLog, make_click_log
from moe_core.ranking.training import RankingTraining, auc, predict, train
from moe_core.training.config import RecipeError

B, J, D, E = 5, 7, 6, 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gate(experts: int = E) -> AttentionGate:
    torch.manual_seed(0)
    return AttentionGate(D, experts)


BEHAVIOURS = torch.randn(B, J, D, generator=seeded())
CONTEXT = torch.randn(B, D, generator=seeded(1))
MASK = torch.arange(J) < torch.tensor([[7], [3], [1], [5], [2]])


def model(variant="aw-moe", experts: int = E) -> RankingModel:
    torch.manual_seed(0)
    return RankingModel(20, 2, variant=variant, dim=D, num_experts=experts)


def requests(seed: int = 0) -> ClickLog:
    generator = seeded(seed)
    return ClickLog(
        torch.randint(20, (B, J), generator=generator),
        MASK,
        torch.randint(20, (B,), generator=generator),
        torch.randn(B, 2, generator=generator),
        torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]),
    )


VARIANT = pytest.mark.parametrize("variant", ["din", "moe", "aw-moe"])


@VARIANT
def test_the_order_of_behaviours_does_not_matter(variant) -> None:
    log, order = requests(), torch.randperm(J, generator=seeded())
    made = model(variant)
    shuffled = log._replace(history_BJ=log.history_BJ[:, order], mask_BJ=log.mask_BJ[:, order])
    torch.testing.assert_close(predict(made, shuffled), predict(made, log))


@VARIANT
def test_padding_changes_nothing(variant) -> None:
    log, made = requests(), model(variant)
    other = log._replace(history_BJ=torch.where(MASK, log.history_BJ, 13))
    assert torch.equal(predict(made, other), predict(made, log))
    longer = log._replace(
        history_BJ=F.pad(log.history_BJ, (0, 4), value=7), mask_BJ=F.pad(log.mask_BJ, (0, 4))
    )
    torch.testing.assert_close(predict(made, longer), predict(made, log))


def test_an_empty_history_gives_a_gate_of_zeros_and_a_finite_score() -> None:
    log = requests()._replace(mask_BJ=torch.zeros(B, J, dtype=torch.bool))
    ranking = model()(*log[:4])
    assert (ranking.gate_BE == 0).all()
    assert ranking.logits.isfinite().all()
    loss = info_nce(ranking.gate_BE, ranking.gate_BE)
    loss.backward()
    assert loss.isfinite()


def test_the_gate_is_additive_over_disjoint_histories() -> None:
    first = MASK & (torch.arange(J) % 2 == 0)
    second = MASK & ~first
    made = gate()
    whole = made(BEHAVIOURS, CONTEXT, MASK)
    parts = made(BEHAVIOURS, CONTEXT, first) + made(BEHAVIOURS, CONTEXT, second)
    torch.testing.assert_close(whole, parts)


def test_leaving_a_behaviour_out_takes_away_exactly_its_contribution() -> None:
    made = gate()
    without = MASK.clone()
    without[:, 2] = False
    contributions = made.contributions(BEHAVIOURS, CONTEXT, MASK)
    torch.testing.assert_close(
        made(BEHAVIOURS, CONTEXT, MASK) - contributions[:, 2],
        made(BEHAVIOURS, CONTEXT, without),
    )
    assert (contributions[~MASK] == 0).all()


def test_the_gate_is_the_masked_sum_of_activation_times_gate_unit() -> None:
    made = gate()
    expected = torch.zeros(B, E)
    for row in range(B):
        for at in range(int(MASK[row].sum())):
            b, c = BEHAVIOURS[row, at], CONTEXT[row]
            seen = torch.cat([b, c, b * c])
            expected[row] += made.activation_unit.layers(seen) * made.gate_unit.layers(seen)
    torch.testing.assert_close(made(BEHAVIOURS, CONTEXT, MASK), expected)


def test_a_masking_rate_of_zero_makes_both_views_identical() -> None:
    assert torch.equal(mask_behaviours(MASK, 0.0, generator=seeded()), MASK)
    assert not mask_behaviours(MASK, 1.0, generator=seeded()).any()
    many = torch.ones(1000, 20, dtype=torch.bool)
    kept = mask_behaviours(many, 0.1, generator=seeded()).float().mean().item()
    assert kept == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("batch", [2, 5, 64])
def test_collapsed_gates_cost_the_logarithm_of_one_plus_the_negatives(batch) -> None:
    collapsed = torch.tensor([1.0, -2.0, 3.0]).expand(batch, 3)
    negatives = batch - 1
    assert info_nce(collapsed, 4 * collapsed).item() == pytest.approx(math.log(1 + negatives))


def test_views_that_tell_rows_apart_cost_next_to_nothing() -> None:
    assert info_nce(torch.eye(4), torch.eye(4), temperature=0.1).item() < 1e-3
    by_hand = -math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + math.exp(0)))
    assert info_nce(torch.eye(2), 3 * torch.eye(2), temperature=0.5).item() == pytest.approx(
        by_hand
    )


def test_the_contrastive_loss_never_reaches_the_towers() -> None:
    log, made = requests(), model()
    fewer = mask_behaviours(log.mask_BJ, 0.3, generator=seeded())
    anchor = made.attention_gate(log.history_BJ, log.mask_BJ, log.target)
    positive = made.attention_gate(log.history_BJ, fewer, log.target)
    info_nce(anchor, positive).backward()
    assert all(parameter.grad is None for parameter in made.towers.parameters())
    assert all(parameter.grad.any() for parameter in made.gate.gate_unit.parameters())


def test_a_single_expert_works() -> None:
    ranking = model(experts=1)(*requests()[:4])
    assert ranking.gate_BE.shape == ranking.scores_BE.shape == (B, 1)
    ranking.logits.sum().backward()


@VARIANT
def test_the_scores_of_the_experts_recombine_to_the_answer(variant) -> None:
    ranking = model(variant)(*requests()[:4])
    torch.testing.assert_close(ranking.logits, (ranking.gate_BE * ranking.scores_BE).sum(1))
    if variant == "moe":
        torch.testing.assert_close(ranking.gate_BE.sum(1), torch.ones(B))
    if variant == "din":
        assert (ranking.gate_BE == 1).all()


def test_only_aw_moe_has_an_attention_gate() -> None:
    log = requests()
    with pytest.raises(ValueError, match="'moe' has no attention gate"):
        model("moe").attention_gate(log.history_BJ, log.mask_BJ, log.target)


def test_the_click_log_has_a_long_tail_and_follows_its_seed() -> None:
    log = make_click_log(4000, seed=3)
    lengths = log.mask_BJ.sum(1)
    assert lengths.min() >= 1
    assert lengths.max() == LONGEST
    harmonic = sum(1 / n for n in range(1, LONGEST + 1))
    expected = sum(1 / n for n in range(1, TAIL + 1)) / harmonic
    assert log.tail.float().mean().item() == pytest.approx(expected, abs=0.03)
    assert torch.equal(log.history_BJ, make_click_log(4000, seed=3).history_BJ)
    assert not torch.equal(log.target, make_click_log(4000, seed=4).target)
    assert 0.2 < log.clicked.mean() < 0.6


def test_the_auc_is_that_of_scikit_learn() -> None:
    clicked = torch.randint(2, (200,), generator=seeded()).float()
    scores = torch.randint(30, (200,), generator=seeded(1)).float() + 5 * clicked  # with ties
    assert auc(scores, clicked) == pytest.approx(roc_auc_score(clicked, scores))


def test_training_with_contrast_learns_to_rank() -> None:
    log, unseen = make_click_log(3000, seed=0), make_click_log(3000, seed=1)
    torch.manual_seed(0)
    made = RankingModel(ITEMS, FEATURES)
    training = RankingTraining(contrast=0.005, epochs=4, batch_size=128)
    train(made, log, training, seed=0)
    assert auc(predict(made, unseen), unseen.clicked) > 0.65


@pytest.mark.parametrize(
    "settings",
    [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0}, {"temperature": 0}, {"drop": 1.1}],
)
def test_impossible_settings_are_refused(settings) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}.*"):
        RankingTraining(**settings)


def test_a_training_that_diverges_is_refused() -> None:
    log = requests()
    with pytest.raises(RecipeError, match="lower learning_rate"):
        train(model(), log, RankingTraining(learning_rate=1e30, epochs=4), seed=0)


def test_the_comparison_is_written_and_shown_with_every_variant(tmp_path, capsys) -> None:
    out = tmp_path / "ranking.json"
    main(["--out", str(out), "--requests", "300", "--epochs", "1", "--seeds", "2"])
    document = json.loads(out.read_text(encoding="utf-8"))
    assert list(document["auc"]) == list(VARIANTS)
    assert len(document["gains"]) == 3
    shown = capsys.readouterr().out
    for part in ("all", "tail"):
        din, moe = ([run[name][part] for run in document["runs"]] for name in ("din", "moe"))
        gains = [one - other for one, other in zip(moe, din, strict=True)]
        row = document["gains"]["din < moe"][part]
        assert row["mean"] == pytest.approx(sum(gains) / 2)
        assert row["deviation"] == pytest.approx(abs(gains[0] - gains[1]) / math.sqrt(2))
        assert row["positive"] == sum(gain > 0 for gain in gains)
        assert f"{document['auc']['din'][part]['mean']:.4f}" in shown


def ensemble_data(rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Two members, of which only one is right; a piece of evidence says which."""
    generator = seeded(rows)
    labels = torch.randint(2, (rows,), generator=generator).float()
    right = torch.randint(2, (rows,), generator=generator)
    scores = torch.randn(rows, 2, generator=generator)
    scores[torch.arange(rows), right] += 4 * labels - 2
    scores[torch.arange(rows), 1 - right] *= 3
    evidence = torch.randn(rows, 3, 4, generator=generator)
    evidence[:, 0, 0] = 4.0 * right - 2
    mask = torch.ones(rows, 3, dtype=torch.bool)
    return scores, evidence, torch.zeros(rows, 4), mask, labels


def test_an_ensemble_learns_which_member_to_trust_from_the_evidence() -> None:
    torch.manual_seed(0)
    ensemble = AttentionEnsemble(2, 4)
    *given, labels = ensemble_data(500)
    optimiser = torch.optim.Adam(ensemble.parameters(), lr=0.01)
    for _ in range(100):
        combined = ensemble(*given)
        loss = F.binary_cross_entropy_with_logits(combined.logits, labels)
        loss = loss + 0.05 * ensemble.consistency_loss(*given[1:], generator=seeded())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    *unseen, labels = ensemble_data(501)
    combined = ensemble(*unseen)
    assert auc(combined.logits, labels) > 0.05 + auc(unseen[0].mean(1), labels)
    right = (unseen[1][:, 0, 0] > 0).long()
    assert (combined.weights_BE.argmax(1) == right).float().mean() > 0.95


def test_an_ensemble_without_evidence_is_the_mean_of_its_members() -> None:
    ensemble = AttentionEnsemble(4, 6)
    scores = torch.randn(B, 4, generator=seeded())
    nothing = torch.zeros(B, J, dtype=torch.bool)
    combined = ensemble(scores, BEHAVIOURS, CONTEXT, nothing)
    torch.testing.assert_close(combined.logits, scores.mean(1))


def test_the_weights_explain_the_score_of_an_ensemble() -> None:
    ensemble = AttentionEnsemble(4, 6)
    nn.init.constant_(ensemble.bias, 0.5)
    scores = torch.randn(B, 4, generator=seeded())
    combined = ensemble(scores, BEHAVIOURS, CONTEXT, MASK)
    torch.testing.assert_close(combined.logits, (combined.weights_BE * scores).sum(1) + 0.5)
