"""The commands of docs/gpu.md are understood; without a GPU they stop at the device."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from badexpert.errors import ConfigError
from badexpert_cli.main import app

TEXT = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text(encoding="utf-8")
BENCHES = re.findall(r"^python -m (badexpert\.bench\.\w+) (.*)$", TEXT, re.MULTILINE)
LAYERS = re.findall(r"python -m moe_core\.bench\.gpu (.*)$", TEXT, re.MULTILINE)
COMMANDS = re.findall(r"^badexpert (.*)$", TEXT, re.MULTILINE)


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs" / "results").mkdir(parents=True)


def test_there_are_commands() -> None:
    assert len(BENCHES) == 5
    assert len(COMMANDS) == 9
    assert len(LAYERS) == 2


@pytest.mark.parametrize(("module", "arguments"), BENCHES)
def test_a_benchmark_is_understood(module: str, arguments: str) -> None:
    with pytest.raises(ConfigError, match="torch sees 0 CUDA devices"):
        import_module(module).main(shlex.split(arguments))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command: str) -> None:
    outcome = CliRunner().invoke(app, shlex.split(command))
    assert isinstance(outcome.exception, ConfigError)
    assert "torch sees 0 CUDA devices" in str(outcome.exception)


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is for Linux")
@pytest.mark.parametrize("arguments", LAYERS)
def test_the_benchmark_of_the_layer_is_understood(
    arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        import_module("moe_core.bench.gpu").main(shlex.split(arguments))
    assert "torch sees no CUDA device" in capsys.readouterr().err
