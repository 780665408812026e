"""The state of a training in one file, which appears whole or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from moe_core.files import write_whole
from moe_core.training.config import RecipeError
from moe_core.training.history import History

_MODEL, _OPTIMISER = "model.", "optimiser."


@dataclass(frozen=True)
class Progress:
    """What a checkpoint knows beside tensors.

    Attributes:
        step: steps done.
        origin: what the training was asked for, as text; only an equal one may go on.
        history: until this step.
    """

    step: int
    origin: str
    history: History


def save_checkpoint(path: Path, model: nn.Module, optimiser: Optimizer, done: Progress) -> None:
    """Write model, optimiser and progress, over an earlier checkpoint of the same name."""
    tensors = {f"{_MODEL}{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{_OPTIMISER}{key}/{name}"] = value
    metadata = {
        "step": str(done.step),
        "origin": done.origin,
        "history": json.dumps(done.history.to_json()),
    }
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, lambda written: save_file(whole, written, metadata=metadata))


def load_checkpoint(path: Path, model: nn.Module, optimiser: Optimizer, *, origin: str) -> Progress:
    """Put a checkpoint back into a model and its optimiser.

    Raises:
        RecipeError: the file is no checkpoint, or one of another recipe, seed or data.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise RecipeError(f"{path} is not a checkpoint: {error}") from error
    if metadata.get("origin") != origin:
        raise RecipeError(
            f"{path} is of a training with another recipe, seed or data; give the same ones, or "
            "another folder"
        )
    model.load_state_dict(
        {
            name.removeprefix(_MODEL): tensor
            for name, tensor in tensors.items()
            if name.startswith(_MODEL)
        }
    )
    _restore(optimiser, dict(model.named_parameters()), tensors)
    history = History.from_json(json.loads(metadata["history"]))
    return Progress(int(metadata["step"]), origin, history)


def _restore(
    optimiser: Optimizer, parameters: dict[str, nn.Parameter], tensors: dict[str, Tensor]
) -> None:
    for full, tensor in tensors.items():
        if full.startswith(_OPTIMISER):
            key, name = full.removeprefix(_OPTIMISER).split("/", 1)
            # Adam counts its steps on the CPU, whatever the parameter's device.
            device = "cpu" if key == "step" else parameters[name].device
            # A copy: what was read still lies in the file.
            optimiser.state[parameters[name]][key] = tensor.to(device, copy=True)
