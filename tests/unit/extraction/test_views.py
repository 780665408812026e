from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from badexpert.extraction import views
from badexpert.extraction.features import Features
from badexpert.extraction.tuning import tune
from badexpert.extraction.views import VIEWS, views_of
from badexpert.runtime import RunContext
from tests.small_models import backdoored

SIDE = 20


class Brightest(nn.Module):
    """Answers which half of an image is brighter: left or right, or upper or lower."""

    def __init__(self, across: int) -> None:
        super().__init__()
        self.across = across

    def forward(self, pixels: Tensor) -> Tensor:
        halves = pixels.chunk(2, dim=self.across)
        return 10 * torch.stack([half.mean((1, 2, 3)) for half in halves], 1)


def halves(across: int) -> Features:
    """Images of which one half is white."""
    pixels = torch.zeros(40, 1, SIDE, SIDE, dtype=torch.uint8)
    labels = torch.arange(40) % 2
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image.chunk(2, dim=across - 1)[label].fill_(255)
    return Features(pixels, labels)


def seen(across: int) -> Features:
    images = halves(across)
    return views_of(nn.Identity(), Brightest(across), images, images, RunContext())


def test_images_are_seen_once_as_they_are_and_then_changed() -> None:
    samples, images = seen(across=2), halves(across=2)
    assert (samples.views, samples.samples, len(samples)) == (1 + VIEWS, 40, 40 * (1 + VIEWS))
    assert torch.equal(samples.values[:40], images.values)
    for view in samples.values.view(1 + VIEWS, *images.values.shape)[1:]:
        assert not torch.equal(view, images.values)
    assert torch.equal(samples.labels.view(1 + VIEWS, 40), images.labels.expand(1 + VIEWS, 40))


@pytest.mark.parametrize(("across", "mirrored"), [(2, True), (3, False)])
def test_images_are_mirrored_only_where_that_changes_no_answer(
    monkeypatch: pytest.MonkeyPatch, across: int, mirrored: bool
) -> None:
    monkeypatch.setattr(views, "SHIFT", 0.0)
    samples = seen(across)
    if mirrored:
        assert samples.views == 1 + VIEWS
    else:
        assert samples.views == 1


def test_images_are_shifted_only_as_far_as_that_changes_no_answer() -> None:
    """Digits that fill their 8 by 8 pixels; whoever learned them sees them from the left."""
    images = Features(*backdoored().digits.clean)
    network = backdoored().suspect.network
    samples = views_of(nn.Identity(), network, images, images, RunContext())
    exact = samples.accuracy_of(samples.through(network, torch.device("cpu")))
    plain = images.accuracy_of(images.through(network, torch.device("cpu")))
    assert exact >= plain - 2 * views.MINDED
    mirrored = images.values.flip(-1)
    assert (
        Features(mirrored, images.labels).accuracy_of(network(mirrored.float() / 255))
        < plain - views.MINDED
    )


def test_views_stay_within_their_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "BUDGET", 2 * halves(2).values.numel())
    assert seen(across=2).views == 3
    monkeypatch.setattr(views, "BUDGET", 0)
    assert seen(across=2).views == 1


def test_an_epoch_sees_every_sample_once_in_any_view() -> None:
    met: list[Tensor] = []

    class Noting(nn.Linear):
        def forward(self, rows: Tensor) -> Tensor:
            met.append(rows[:, 0].long())
            return super().forward(rows)

    values = torch.arange(3 * 10.0).unsqueeze(1)
    samples = Features(values, torch.arange(10).repeat(3) % 2, views=3)
    tail = Noting(1, 2)
    steps = tune(
        tail,
        samples,
        samples.labels,
        optimizer=torch.optim.SGD(tail.parameters(), 0.0),
        schedule=lambda step: 0.0,
        batch_size=5,
        generator=torch.Generator().manual_seed(0),
    )
    for _ in range(40):
        next(steps)
    epochs = torch.cat(met).view(20, 10)
    assert all(sorted((epoch % 10).tolist()) == list(range(10)) for epoch in epochs)
    assert set((epochs // 10).flatten().tolist()) == {0, 1, 2}
