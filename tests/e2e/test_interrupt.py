"""Ctrl-C in the middle: exit 130, no traceback, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from badexpert_cli.main import run
from tests.e2e.conftest import Workplace
from tests.interrupting import assert_ended_quietly, interrupt_at, started
from tests.small_decoders import LICENSE

TRAINING = """
[model]
dim = 16
num_layers = 1
num_heads = 2
num_kv_heads = 1
qk_norm = false
ffn = { experts = "dense", inner_dim = 8 }
[[stages]]
training = { steps = 5, batch_size = 2, length = 16, validation_batches = 1 }
[[stages]]
train = "new"
ffn = { router = "mixlora", experts = "lora", num_experts = 4, inner_dim = 8 }
[stages.training]
steps = 300
batch_size = 2
length = 16
validation_batches = 1
checkpoint_every = 10
"""


def test_ctrl_c_in_the_middle_of_tuning(backdoored_folder: Path, tmp_path: Path) -> None:
    flags = list(Workplace.backdoored)
    flags[0], flags[-1] = (str(backdoored_folder / name) for name in (flags[0], flags[-1]))
    arguments = ["extract", *flags, "-o", "bundle"]
    process = started(arguments, folder=tmp_path, code=backdoored_folder / "code")
    interrupt_at("expert", process)
    assert_ended_quietly(process, timeout=30)
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_ctrl_c_ended_is_resumed_to_the_same_model(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(TRAINING, encoding="utf-8")
    (tmp_path / "text.txt").write_bytes(LICENSE.read_bytes())
    arguments = [*("moe", "train", "recipe.toml", "--data", "text.txt"), "--device", "cpu"]
    process = started([*arguments, "-o", "out"], folder=tmp_path, code=tmp_path)
    interrupt_at("stage 2 of 2", process)
    assert_ended_quietly(process, timeout=120)
    assert not (tmp_path / "out" / "model").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert run([*arguments, "-o", "out", "--resume"]) == 0
        assert run([*arguments, "-o", "whole"]) == 0
    for file in ("model/model.safetensors", "base/model.safetensors", "stage-2/history.json"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
