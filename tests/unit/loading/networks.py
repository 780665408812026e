"""Small networks of a user's own, for ``python:tests.unit.loading.networks:NAME``."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """Convolutional, with ``view``, dropout, and no batch-norm: what tutorials teach."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(4 * 8 * 8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        scores: Tensor = self.fc(self.dropout(x.view(-1, 4 * 8 * 8)))
        return scores


def small_softmax(num_classes: int = 10) -> nn.Module:
    return nn.Sequential(Small(num_classes), nn.Softmax(dim=1))


def wrapped(num_classes: int = 10) -> nn.Module:
    """Its own tensors' names begin like those of a training script's wrapper."""
    outer = nn.Sequential()
    outer.add_module("model", Small(num_classes))
    return outer


def fixed() -> nn.Module:
    """Without any argument."""
    return Small(num_classes=5, in_channels=1)


def failing(num_classes: int) -> nn.Module:
    raise OSError("the disk of the factory is full")


def no_module(num_classes: int) -> object:
    return "a network"


NOT_CALLABLE = 3
