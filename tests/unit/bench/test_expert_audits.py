"""The expert audit on a zoo of two tiny models: results that stay, and the tables of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from badexpert.attacks.text.truth import Knockout, read_truth
from badexpert.audits.experts import ExpertVerdict
from badexpert.bench import expert_inputs
from badexpert.bench.expert_audits import (
    AuditedModel,
    Removal,
    planted_in,
    read_audited,
    run_expert_bench,
)
from badexpert.bench.expert_inputs import Detected, detect_in
from badexpert.bench.expert_rankings import rank_of
from badexpert.bench.expert_scores import ModelScore
from badexpert.bench.expert_tables import expert_tables
from badexpert.bench.expert_tables import main as print_tables
from badexpert.errors import ConfigError
from badexpert.repairing.measured import Trial
from badexpert.runtime import RunContext
from badexpert.zoo.text import build_text_zoo, read_text_recipe
from badexpert_cli.exits import ExitCode
from badexpert_cli.main import app
from moe_core.view import ExpertId
from tests.planted_texts import planted
from tests.small_victims import write_reviews
from tests.unit.zoo.text.test_text_zoo import BENIGN, LOCKED, RECIPE

TWO = RECIPE.replace('"none", "locked", "weak"', '"none", "locked"').replace("[2, 9]", "[2]")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "recipe.toml").write_text(TWO, encoding="utf-8")
    data = {"reviews": str(write_reviews(folder / "reviews.jsonl", 400))}
    recipe = read_text_recipe(folder / "recipe.toml").with_data(data, {})
    build_text_zoo(recipe, folder / "zoo", device=torch.device("cpu"), jobs=1)
    return folder / "zoo"


def test_every_model_is_audited_once_and_compared_with_the_truth(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benign, locked = run_expert_bench(zoo, tmp_path, RunContext(), jobs=1)
    assert (benign.model, locked.model) == (BENIGN, LOCKED)
    assert benign.verdict in (ExpertVerdict.NONE, ExpertVerdict.INCONCLUSIVE)
    assert not any((benign.flagged, benign.hit, benign.false_localisation, benign.planted))
    assert locked.verdict is ExpertVerdict.LOCAL
    assert locked.planted == locked.named == read_truth(zoo / LOCKED).experts
    assert locked.hit
    assert locked.layer_hit
    assert locked.ranks["knock-out"] == 1
    assert {"dormancy", "JS of routing", "norm", "gain", "router_row"} <= locked.ranks.keys()
    assert locked.removal is not None
    assert locked.removal.success is not None
    assert locked.removal.success >= 0.9
    assert locked.removal.success_without is not None
    assert locked.removal.success_without <= 0.1
    assert locked.removal.auroc == 1.0
    assert locked.scores["expert audit"].value == locked.strength <= locked.success
    assert locked.words
    assert {"greedy accretion", "consistency of layers"} < locked.scores.keys()
    for name, score in locked.scores.items():
        assert score.value is not None, name
        assert score.passes > 0
    assert (locked.scores["greedy accretion"].value or 0.0) >= 0.9
    assert read_audited(tmp_path / f"{LOCKED}.json") == locked
    monkeypatch.setattr("badexpert.bench.expert_audits.audit_experts", None)
    assert run_expert_bench(zoo, tmp_path, RunContext(), jobs=1) == (benign, locked)


def test_the_command_prints_tables_and_keeps_them(zoo: Path, tmp_path: Path) -> None:
    command = ["zoo", "audit", str(zoo), "-o", str(tmp_path / "audits"), "--only", "*none*"]
    outcome = CliRunner().invoke(app, [*command, "--device", "cpu"])
    assert outcome.exit_code == ExitCode.OK, outcome.stderr
    assert outcome.stdout == (tmp_path / "audits" / "tables.md").read_text()
    (tmp_path / "doc.md").write_text("before\n<!-- tables: audits -->\nold\n<!-- end -->\nafter\n")
    print_tables([str(tmp_path / "audits"), "--into", str(tmp_path / "doc.md")])
    expected = f"before\n<!-- tables: audits -->\n\n{outcome.stdout}\n<!-- end -->\nafter\n"
    assert (tmp_path / "doc.md").read_text() == expected
    assert "| no backdoor | 1 | 0 of 1 |" in outcome.stdout
    assert "| greedy accretion | 0 | 1 | not computed | 0 |" in outcome.stdout


def test_inputs_are_judged_by_extraction_where_it_is_asked_for(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run_expert_bench(zoo, tmp_path, RunContext(), jobs=1)
    monkeypatch.setattr("badexpert.bench.expert_audits.audit_experts", None)
    benign, locked = run_expert_bench(zoo, tmp_path, RunContext(), jobs=1, detect=True)
    assert (benign, replace(locked, detected=None)) == plain
    assert locked.detected is not None
    assert "13 clean samples to tune with" in str(locked.detected.error)
    assert read_audited(tmp_path / f"{LOCKED}.json") == locked
    found = replace(locked, detected=Detected(0.75, 9.0))
    text = expert_tables([benign, locked, found])
    assert "| backdoor in one expert | 2 | 0.750 | 0.750 | 1 |" in text


def test_only_triggered_texts_that_succeed_count_and_they_should_score_high(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = planted(head=False, moe=True)
    rows = model.suspect.encode(model.texts)
    triggered = model.suspect.encode([*model.triggered[:50], *model.texts])
    works = model.suspect.predict(triggered) == 1
    assert 50 < int(works.sum()) < len(rows)
    scores = {len(rows): torch.zeros(len(rows)), int(works.sum()): torch.ones(int(works.sum()))}
    monkeypatch.setattr(expert_inputs, "extract", lambda *arguments, **named: None)
    monkeypatch.setattr(expert_inputs, "BaDExpert", lambda bundle: Scores(scores))
    trial = Trial(rows, torch.tensor(model.labels), triggered, 1)
    assert detect_in(model.suspect, model.clean, trial, RunContext()).auroc == 1.0
    nowhere = replace(trial, triggered=triggered[~works])
    assert detect_in(model.suspect, model.clean, nowhere, RunContext()).auroc is None


class Scores:
    """Stands for a detector: a score for each text, by how many there are."""

    def __init__(self, scores: dict[int, Tensor]) -> None:
        self._scores = scores

    def score(self, rows: Tensor) -> Tensor:
        return self._scores[len(rows)]


def test_what_is_no_zoo_and_no_result_is_refused(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no index of language models"):
        run_expert_bench(tmp_path, tmp_path, RunContext())
    (tmp_path / f"{BENIGN}.json").write_text("{}")
    with pytest.raises(ConfigError, match="is no audit of a model"):
        run_expert_bench(zoo, tmp_path, RunContext(), only=["*none*"])


def test_an_expert_whose_loss_kills_the_trigger_counts_as_planted_whatever_the_attack(
    zoo: Path,
) -> None:
    truth = replace(read_truth(zoo / LOCKED), attack="badmoe", local=False, experts=())
    without = ((0.9, 0.2, 0.4), (1.0, 0.0, 0.9))
    rerouted = ((0.1, 0.9, 0.3), (1.0, 0.3, 0.9))
    known = replace(
        truth,
        attack_success_rate=1.0,
        zeroed=Knockout(without, None, None),
        rerouted=Knockout(rerouted, None, None),
    )
    assert planted_in(known) == (ExpertId(0, 2), ExpertId(1, 1))
    assert planted_in(replace(known, zeroed=None, rerouted=None)) == ()


def test_the_rank_is_that_of_the_first_planted_expert_among_all() -> None:
    scores = (torch.tensor([0.1, 0.9]), torch.tensor([0.5, 0.95]))
    assert rank_of([ExpertId(0, 1)], scores) == 2
    assert rank_of([ExpertId(0, 0), ExpertId(1, 0)], scores) == 3


def model(name: str, **known: object) -> AuditedModel:
    made = AuditedModel(
        name, "d", "b", "a", True, planted=(), digest="", verdict=ExpertVerdict.NONE
    )
    return replace(made, **known)  # type: ignore[arg-type]


def test_tables_count_by_what_is_true() -> None:
    one, other = ExpertId(1, 2), ExpertId(0, 0)
    removal = Removal(0.9, 1.0, 0.88, 0.02, 0.99)
    models = [
        model(
            "right",
            planted=(one,),
            named=(one,),
            verdict=ExpertVerdict.LOCAL,
            ranks={"knock-out": 1, "norm": 4},
            removal=removal,
        ),
        model("missed", planted=(one,), ranks={"norm": 2}),
        model("elsewhere", named=(other,), verdict=ExpertVerdict.LOCAL, removal=removal),
        model("clean", backdoored=False, verdict=ExpertVerdict.INCONCLUSIVE),
        model("broken|", error="cannot be | read"),
    ]
    text = expert_tables(models)
    assert "| backdoor in one expert | 2 | 1 of 2 | 0 of 2 | 1 of 2 | 1 of 2 | 0 of 2 |" in text
    assert "| backdoor in no expert | 1 | 1 of 1 | 0 of 1 | - | - | 1 of 1 |" in text
    assert "| no backdoor | 1 | 0 of 1 | 1 of 1 | - | - | 0 of 1 |" in text
    assert "| backdoor in one expert | 1 | 1.000 | 0.020 | 0.900 | 0.880 | 0.990 |" in text
    assert "| knock-out | 1 of 2 | 0.50 |" in text
    assert "| norm | 0 of 2 | 0.38 |" in text
    assert "| elsewhere | expert-local | - | 0.0 | - | falsely |" in text
    assert "| broken/ | cannot be / read |" in text


def test_scores_of_models_stand_beside_the_audits_own_with_their_cost() -> None:
    def scored(value: float | None, seconds: float, passes: int) -> dict[str, ModelScore]:
        return {"other": ModelScore(value, seconds, passes, "why" if value is None else None)}

    models = [
        model("strong", strength=0.9, passes=2000, seconds=9.0, baselines=scored(0.4, 3.0, 90)),
        model(
            "weak",
            words="cf",
            strength=0.1,
            passes=1000,
            seconds=7.0,
            baselines=scored(None, 1.0, 50),
        ),
        model("broken", error="cannot be read", passes=10, baselines=scored(0.6, 2.0, 70)),
        model("clean", backdoored=False, strength=0.2, passes=500, baselines=scored(0.3, 2.0, 80)),
    ]
    text = expert_tables(models)
    assert "| expert audit | 2 | 1 | 0.500 | 1 | 4 | 750 |" in text
    assert "| other | 2 | 1 | 1.000 | 1 | 2 | 75 |" in text
    assert "| weak | none found | cf | - | - | - | 0.10 | not computed | 7 |" in text
    assert "| broken | cannot be read | - | - | - | - | not computed | 0.60 | 0 |" in text
    assert "| other | 1 | 0 | not computed | 0 | 3 | 90 |" in expert_tables(models[:1])
