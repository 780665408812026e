"""Training a ranking model on a click log, and how well it ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_core.ranking.clicklog import ClickLog
from moe_core.ranking.contrastive import info_nce, mask_behaviours
from moe_core.ranking.model import RankingModel
from moe_core.training.config import RecipeError


@dataclass(frozen=True)
class RankingTraining:
    """How a ranking model is trained.

    Attributes:
        contrast: weight of the contrastive loss; 0 leaves it out.
        drop: probability that a behaviour is missing from the positive view.
        temperature: of the contrastive loss.
    Source: the values of these three are a reconstruction.
    """

    contrast: float = 0.0
    drop: float = 0.1
    temperature: float = 0.1
    epochs: int = 8
    batch_size: int = 256
    learning_rate: float = 1e-2

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1 or min(self.learning_rate, self.temperature) <= 0:
            raise ValueError(
                "epochs and batch_size are at least 1, learning_rate and temperature above 0"
            )
        if self.contrast < 0 or not 0 <= self.drop <= 1:
            raise ValueError("contrast is at least 0, drop in [0, 1]")


def train(model: RankingModel, log: ClickLog, training: RankingTraining, *, seed: int) -> None:
    """Minimise the clicks' cross-entropy plus the contrastive loss, in place.

    Raises:
        RecipeError: the loss is no number any more.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
    for _ in range(training.epochs):
        order = torch.randperm(len(log.clicked), generator=generator)
        for index in order.split(training.batch_size):
            loss = _loss(model, log.rows(index), training, generator)
            if not loss.isfinite():
                raise RecipeError(f"the loss is {loss.item()}; lower learning_rate")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def auc(scores: Tensor, clicked: Tensor) -> float:
    """Probability that a clicked request scores above one that was not, ties counting half."""
    values, rank = scores.unique(sorted=True, return_inverse=True)
    positives = torch.bincount(rank[clicked > 0], minlength=len(values)).double()
    negatives = torch.bincount(rank[clicked <= 0], minlength=len(values)).double()
    below = negatives.cumsum(0) - negatives
    won = (positives * (below + negatives / 2)).sum()
    return (won / (positives.sum() * negatives.sum())).item()


@torch.no_grad()
def predict(model: RankingModel, log: ClickLog) -> Tensor:
    """Logits of all requests, (requests,)."""
    return model(log.history_BJ, log.mask_BJ, log.target, log.features_BF).logits


def _loss(
    model: RankingModel, batch: ClickLog, training: RankingTraining, generator: torch.Generator
) -> Tensor:
    ranking = model(batch.history_BJ, batch.mask_BJ, batch.target, batch.features_BF)
    loss = F.binary_cross_entropy_with_logits(ranking.logits, batch.clicked)
    if not training.contrast:
        return loss
    fewer_BJ = mask_behaviours(batch.mask_BJ, training.drop, generator=generator)
    positive_BE = model.attention_gate(batch.history_BJ, fewer_BJ, batch.target)
    contrast = info_nce(ranking.gate_BE, positive_BE, temperature=training.temperature)
    return loss + training.contrast * contrast
