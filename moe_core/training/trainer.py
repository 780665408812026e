"""The training loop. Every step depends on the state, the seed and its own number alone.

So a training that was interrupted goes on exactly as if it had not been.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_core.files import write_text
from moe_core.lm.decoder import Decoder, DecoderOutput
from moe_core.load import max_violation
from moe_core.routers.base_layers import BaseRouter
from moe_core.routers.duo import BudgetRouter, budget_loss
from moe_core.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from moe_core.training.config import RecipeError, TrainingConfig
from moe_core.training.corpus import Batch, Corpus
from moe_core.training.history import History, Record, Validation, entropies, loads

CHECKPOINT_FILE = "checkpoint.safetensors"
HISTORY_FILE = "history.json"

BETAS = (0.9, 0.95)


class Beat(NamedTuple):
    """One step of a training, for who watches.

    Attributes:
        stage: counted from 1.
        done: steps done.
        total: steps of this stage.
        loss: of the step.
    """

    stage: int
    done: int
    total: int
    loss: float


def train(
    model: Decoder,
    corpus: Corpus,
    config: TrainingConfig,
    *,
    seed: int = 0,
    folder: Path | None = None,
    origin: str = "",
    history: History | None = None,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> History:
    """Train a decoder in place, on the device where it is.

    Only parameters that require gradients are trained. Routers learn without gradients in
    ``after_step``; their auxiliary losses are added to the loss of the task.

    Args:
        folder: for the checkpoint and the history; a checkpoint that is there already is gone on
            from. None writes nothing.
        origin: see ``Progress``.
        history: to be continued; a new one by default.
        progress: called after each step with the number of steps done and the loss.
    Raises:
        RecipeError: there is too little data or no way to share it equally, the checkpoint is of
            another training, or the loss is no number any more.
    """
    corpus.check(config)
    _check_shares(model, config)
    optimiser = _optimiser(model, config)
    history, start = history or History(), 0
    if folder is not None and (folder / CHECKPOINT_FILE).is_file():
        done = load_checkpoint(folder / CHECKPOINT_FILE, model, optimiser, origin=origin)
        history, start = done.history, done.step
    model.train()
    for step in range(start + 1, config.steps + 1):
        loss = _step(model, optimiser, corpus, config, history, step=step, seed=seed)
        last = step == config.steps
        if last or step % config.validate_every == 0:
            history.validations.append(validate(model, corpus, config, step))
        if folder is not None and (last or step % config.checkpoint_every == 0):
            _save(folder, model, optimiser, Progress(step, origin, history))
        progress(step, loss)
    model.eval()
    return history


def validate(model: Decoder, corpus: Corpus, config: TrainingConfig, step: int) -> Validation:
    """Loss, accuracy and balance on the held-out part; the model's mode is kept."""
    return measure(model, corpus.validation(config), step)


@torch.no_grad()
def measure(model: Decoder, batches: Iterable[Batch], step: int) -> Validation:
    """Loss, accuracy and balance on these batches; the model's mode is kept."""
    was_training = model.training
    model.eval()
    losses, right, count = 0.0, 0, 0
    counted: list[Tensor] = []
    for batch in batches:
        batch = batch.to(model.embed_tokens.weight.device)
        output = model(batch.ids_BT, batch.lengths_B)
        losses += task_loss(output, batch).item() * batch.targets.numel()
        right += int((output.logits.argmax(-1) == batch.targets).sum())
        count += batch.targets.numel()
        counted.append(_stacked_loads(output))
    model.train(was_training)
    load_LE = torch.stack(counted).sum(0)
    violations = [max_violation(load_E[load_E >= 0]).item() for load_E in load_LE]
    return Validation(step, losses / count, right / count, violations)


def task_loss(output: DecoderOutput, batch: Batch) -> Tensor:
    """Mean cross-entropy of next tokens or classes, scalar."""
    return F.cross_entropy(output.logits.flatten(0, -2), batch.targets.flatten())


def _check_shares(model: Decoder, config: TrainingConfig) -> None:
    tokens = config.batch_size * config.length
    for router in model.routers():
        if isinstance(router, BaseRouter) and tokens % router.num_experts:
            raise RecipeError(
                f"batch_size={config.batch_size} times length={config.length} tokens cannot be "
                f"shared equally among {router.num_experts} experts; make it a multiple of them"
            )


def _optimiser(model: Decoder, config: TrainingConfig) -> torch.optim.AdamW:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise RecipeError("no parameter of the model is to be trained")
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=BETAS)


def _step(
    model: Decoder,
    optimiser: torch.optim.Optimizer,
    corpus: Corpus,
    config: TrainingConfig,
    history: History,
    *,
    step: int,
    seed: int,
) -> float:
    device = model.embed_tokens.weight.device
    rate = config.rate_at(step)
    for group in optimiser.param_groups:
        group["lr"] = rate
    _heat(model, config, step)
    with _seeded(seed, step, device) as generator:
        batch = corpus.draw(config, generator).to(device)
        output = model(batch.ids_BT, batch.lengths_B)
        loss, aux_loss = task_loss(output, batch), _aux_loss(output, config)
        if not (loss + aux_loss).isfinite():
            raise RecipeError(f"the loss of step {step} is {loss.item()}; lower learning_rate")
        optimiser.zero_grad()
        (loss + aux_loss).backward()
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(trained, config.clip)
    optimiser.step()
    for router in model.routers():
        router.after_step()
    if step == 1 or step % config.record_every == 0:
        history.records.append(_recorded(output, loss, aux_loss, rate, step))
    return loss.item()


def _aux_loss(output: DecoderOutput, config: TrainingConfig) -> Tensor:
    if config.budget is None:
        return output.aux_loss
    budget = config.budget
    return output.aux_loss + budget_loss(output.routings, budget.share, coef=budget.coef)


def _heat(model: Decoder, config: TrainingConfig, step: int) -> None:
    if config.budget is not None:
        done = (step - 1) / max(1, config.steps - 1)
        for router in model.routers():
            if isinstance(router, BudgetRouter):
                router.temperature = config.budget.final_temperature**done


def _recorded(
    output: DecoderOutput, loss: Tensor, aux_loss: Tensor, rate: float, step: int
) -> Record:
    return Record(
        step=step,
        loss=loss.item(),
        aux_loss=aux_loss.item(),
        learning_rate=rate,
        load=loads(output.routings),
        entropy=entropies(output.routings),
        drop_rate=[routing.drop_rate.item() for routing in output.routings],
    )


def _stacked_loads(output: DecoderOutput) -> Tensor:
    """Loads of all layers, (layers, most experts), filled up with -1."""
    loads_E = [routing.load_E for routing in output.routings]
    if not loads_E:
        return torch.zeros(0, 1)
    return torch.nn.utils.rnn.pad_sequence(loads_E, batch_first=True, padding_value=-1)


@contextmanager
def _seeded(seed: int, step: int, device: torch.device) -> Iterator[torch.Generator]:
    """A generator of this step's own, and torch's own generators seeded alike until the end."""
    digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    own = int.from_bytes(digest[:8], "big") >> 1
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(own)
        yield torch.Generator().manual_seed(own)


def _save(
    folder: Path, model: Decoder, optimiser: torch.optim.Optimizer, progress: Progress
) -> None:
    save_checkpoint(folder / CHECKPOINT_FILE, model, optimiser, progress)
    text = json.dumps(progress.history.to_json(), indent=1) + "\n"
    write_text(folder / HISTORY_FILE, text)
