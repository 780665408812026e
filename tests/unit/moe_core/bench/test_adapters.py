from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch

from moe_core.bench import adapters
from moe_core.bench.adapters import ADAPTERS, HEAD, LORA
from moe_core.bench.texts import UNKNOWN, Words, corpus_of, read_labelled
from moe_core.training import TrainingConfig

SMALL = (
    "--vocabulary 12 --dim 8 --inner-dim 16 --layers 1 --base-steps 2 --rank 25 "
    "--attention-rank 1 --steps 2 --batch-size 4 --length 6"
).split()
SUBJECTS, VERDICTS = ["film", "play", "song"], {"0": ["bad", "dull"], "1": ["good", "fine"]}


def table(path: Path, rows: int) -> str:
    labels = [row % 2 for row in range(rows)]
    texts = [
        f"the {SUBJECTS[row % 3]} is {VERDICTS[str(label)][row // 2 % 2]} ."
        for row, label in enumerate(labels)
    ]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "label": labels}), path)
    return str(path)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    files = table(tmp_path / "train.parquet", 60), table(tmp_path / "test.parquet", 10)
    return ["--out", str(tmp_path / "a.json"), "--task", "verdicts", *files, *SMALL]


def test_the_most_frequent_words_have_numbers_and_others_share_one() -> None:
    words = Words(["B a, a", "a b c"], 3)
    assert words.vocab_size == 3
    assert words.encode("a A b c , new").tolist() == [1, 1, 2, UNKNOWN, UNKNOWN, UNKNOWN]
    assert words.encode("").tolist() == []


def test_tables_become_texts_with_the_index_of_their_class(tmp_path: Path) -> None:
    read = read_labelled(Path(table(tmp_path / "t.parquet", 4)))
    assert read.labels == ["0", "1", "0", "1"]
    corpus = corpus_of(read, ("0", "1"), Words(read.texts, 20))
    [batch] = corpus.batches(TrainingConfig(length=8))
    assert sorted(batch.targets.tolist()) == [0, 0, 1, 1]
    assert batch.lengths_B is not None
    assert batch.lengths_B.tolist() == [5] * 4


def test_adapters_are_alike_in_size_and_all_are_measured(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapters.main([*arguments, "--rates", "1e-3", "1e-2", "--seeds", "2"])
    document = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    rows = document["adapters"]["verdicts"]
    assert list(rows) == [HEAD, *ADAPTERS]
    sizes = {name: row["parameters"] for name, row in rows.items()}
    assert sizes[HEAD] == 2 * 8
    assert all(abs(sizes[name] - sizes[LORA]) <= 0.02 * sizes[LORA] for name in ADAPTERS)
    cells = document["cells"]
    assert len(cells) == 4 * (2 + 1)
    shown = capsys.readouterr().out
    for name, row in rows.items():
        losses = {r: cells[f"verdicts / {name} / {r:g} / 0"]["held_out_loss"] for r in (1e-3, 1e-2)}
        assert row["rate"] == min(losses, key=lambda rate: losses[rate])
        assert len(row["accuracies"]) == 2
        assert f"{100 * row['mean']:.2f}" in shown
    assert document["settings"]["task"] == [["verdicts", "train.parquet", "test.parquet"]]


def test_a_run_that_was_cut_off_repeats_nothing(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [*arguments, "--rates", "1e-3", "--seeds", "1"]
    bench = adapters.Bench(adapters._arguments(alone))
    task = bench.tasks[0]
    done = bench.cell(task, LORA, 1e-3, 0)
    adapters.main([*arguments, "--rates", "1e-3", "--seeds", "1"])
    document = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert document["cells"][f"verdicts / {LORA} / 0.001 / 0"] == vars(done)

    def trains(*_: object, **__: object) -> None:
        raise AssertionError("it trained again")

    again = adapters.Bench(adapters._arguments(alone))
    assert torch.equal(again.base.head.weight, bench.base.head.weight)
    monkeypatch.setattr(adapters, "train", trains)
    assert again.cell(again.tasks[0], LORA, 1e-3, 0) == done


def test_results_of_other_settings_are_not_gone_on_with(arguments: list[str]) -> None:
    alone = [*arguments, "--rates", "1e-3", "--seeds", "1"]
    bench = adapters.Bench(adapters._arguments(alone))
    bench.write({})
    with pytest.raises(ValueError, match="results of other settings"):
        adapters.Bench(adapters._arguments([*alone, "--steps", "3"]))


def test_a_size_that_no_rank_comes_near_is_refused(arguments: list[str]) -> None:
    with pytest.raises(ValueError, match="give another --rank"):
        adapters.Bench(adapters._arguments([*arguments, "--rank", "3"]))
