"""The one loop that tunes, and what it is fed with."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from badexpert.errors import AuditError
from badexpert.extraction import tuning
from badexpert.extraction.features import Features, compute_features, spread_over_wrong
from badexpert.extraction.tuning import MeanWeights, trainable_copy, tune

CPU = torch.device("cpu")


def features_of(count: int = 20) -> Features:
    generator = torch.Generator().manual_seed(0)
    return Features(torch.randn(count, 4, generator=generator), torch.arange(count) % 3)


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


class Recorder(nn.Module):
    """Remembers the rows that it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.shown = linear(), list[Tensor]()

    def forward(self, rows: Tensor) -> Tensor:
        self.shown.append(rows.clone())
        scores: Tensor = self.linear(rows)
        return scores


def run(tail: nn.Module, features: Features, steps: int, **changes: object) -> list[int]:
    settings: dict[str, object] = {
        "optimizer": torch.optim.SGD(tail.parameters(), 0.1),
        "schedule": lambda step: 0.1,
        "batch_size": 8,
        "generator": torch.Generator().manual_seed(0),
    }
    loop = tune(tail, features, features.labels, **(settings | changes))  # type: ignore[arg-type]
    return list(itertools.islice(loop, steps))


def test_steps_are_counted_from_one_and_the_caller_stops() -> None:
    assert run(linear(), features_of(), 7) == [1, 2, 3, 4, 5, 6, 7]


class Words(nn.Module):
    """Scores rows of tokens, (rows, tokens), padded with -1."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.shown = nn.Embedding(10, 3), list[int]()

    def forward(self, rows: Tensor) -> Tensor:
        self.shown.append(len(rows))
        scores: Tensor = (self.words(rows.clamp_min(0)) * (rows >= 0)[..., None]).sum(1)
        return scores


def test_long_texts_are_parted_and_their_gradients_added(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(10, (16, 6), generator=generator)
    rows[:, 5] = -1
    texts = Features(rows, torch.arange(16) % 3)
    whole, parted = Words(), Words()
    run(whole, texts, 4)
    monkeypatch.setattr(tuning, "TOKENS_AT_ONCE", 17)
    run(parted, texts, 4)
    assert whole.shown == [8] * 4
    assert parted.shown == [3, 3, 2] * 4
    torch.testing.assert_close(parted.words.weight, whole.words.weight)
    assert not torch.equal(whole.words.weight, Words().words.weight)


def test_a_tuned_copy_holds_no_gradient() -> None:
    tail = linear()
    run(tail, features_of(), 3)
    assert all(part.grad is None for part in tail.parameters())


def test_every_epoch_shows_every_sample_once_in_another_order() -> None:
    tail, features = Recorder(), features_of()
    run(tail, features, 6)
    assert [len(rows) for rows in tail.shown] == [8, 8, 4, 8, 8, 4]
    epochs = torch.cat(tail.shown[:3]), torch.cat(tail.shown[3:])
    for epoch in epochs:
        assert torch.equal(epoch.sort(0).values, features.values.sort(0).values)
    assert not torch.equal(*epochs)


def test_tuning_lowers_the_loss() -> None:
    tail, features = linear(), features_of()
    before = nn.functional.cross_entropy(tail(features.values), features.labels)
    run(tail, features, 50)
    assert nn.functional.cross_entropy(tail(features.values), features.labels) < before


def test_the_learning_rate_follows_the_schedule() -> None:
    rates: list[float] = []

    class Spy(torch.optim.SGD):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            rates.append(self.param_groups[0]["lr"])

    tail = linear()
    optimizer = Spy(tail.parameters(), 9.0)
    run(tail, features_of(), 4, optimizer=optimizer, schedule=lambda step: 0.5**step)
    assert rates == [1, 0.5, 0.25, 0.125]


def test_augmentation_sees_pixels_in_zero_to_one() -> None:
    seen: list[Tensor] = []
    pixels = torch.arange(20 * 4, dtype=torch.uint8).view(20, 4)

    def augment(rows: Tensor) -> Tensor:
        seen.append(rows)
        return rows * 0

    tail = Recorder()
    run(tail, Features(pixels, torch.arange(20) % 3), 3, augment=augment)
    assert torch.allclose(torch.cat(seen).sort(0).values, pixels.float() / 255)
    assert not torch.cat(tail.shown).any()


def test_tuning_that_diverges_names_step_and_learning_rate() -> None:
    with pytest.raises(AuditError, match="diverged at step 2, learning rate inf"):
        run(linear(), features_of(), 5, schedule=lambda step: float("inf"))


def test_a_trainable_copy_leaves_the_original_alone() -> None:
    tail = linear().requires_grad_(False)
    tuned = trainable_copy(tail)
    run(tuned, features_of(), 3)
    assert not torch.equal(tuned.weight, tail.weight)
    assert torch.equal(tail.weight, linear().weight)
    assert not tail.weight.requires_grad


def test_targets_spread_over_the_wrong_classes() -> None:
    found = spread_over_wrong(torch.tensor([0, 2]), 3)
    assert found.tolist() == [[0, 0.5, 0.5], [0.5, 0.5, 0]]
    assert spread_over_wrong(torch.tensor([0, 1]), 2).tolist() == [[0, 1], [1, 0]]


def test_spread_targets_are_the_mean_of_all_wrong_labels() -> None:
    scores, label = torch.randn(1, 5), torch.tensor([3])
    wrong = [c for c in range(5) if c != 3]
    each = [nn.functional.cross_entropy(scores, torch.tensor([c])) for c in wrong]
    spread = nn.functional.cross_entropy(scores, spread_over_wrong(label, 5))
    assert spread.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-5)


def test_features_are_the_trunks_outputs_of_all_samples() -> None:
    trunk = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    pixels = torch.randint(256, (300, 1, 5, 5), dtype=torch.uint8)
    features = compute_features(trunk, Features(pixels, torch.arange(300)), CPU)
    assert torch.allclose(features.values, trunk(pixels.float() / 255), atol=1e-6)
    assert not features.values.requires_grad
    assert torch.equal(features.rows(torch.tensor([299, 0]), CPU), features.values[[299, 0]])


def test_without_a_trunk_pixels_stay_bytes_until_they_are_used() -> None:
    pixels = torch.randint(256, (300, 1, 5, 5), dtype=torch.uint8)
    features = compute_features(nn.Identity(), Features(pixels, torch.arange(300) % 4), CPU)
    assert features.values.dtype == torch.uint8
    tail = nn.Sequential(nn.Flatten(), nn.Linear(25, 4))
    logits = features.through(tail, CPU)
    assert torch.allclose(logits, tail(pixels.float() / 255), atol=1e-6)


def test_a_part_keeps_samples_and_labels_together() -> None:
    features = features_of()
    part = features.where(torch.tensor([5, 3]))
    assert len(part) == 2
    assert torch.equal(part.values, features.values[[5, 3]])
    assert part.labels.tolist() == [2, 0]


def with_batch_norm(*, running: bool = True) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6, track_running_stats=running)
    layers = (nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), norm, nn.ReLU(), nn.Linear(6, 3))
    return nn.Sequential(*layers, nn.Dropout(0.5)).eval()


def test_a_last_batch_of_one_is_left_out_because_it_has_no_statistics() -> None:
    tail = Recorder()
    run(tail, features_of(17), 5)
    assert [len(rows) for rows in tail.shown] == [8, 8, 8, 8, 8]


def test_mean_weights_are_the_mean_of_all_states_statistics_included() -> None:
    network, mean = with_batch_norm(), MeanWeights()
    for value in (1.0, 2.0, 6.0):
        with torch.no_grad():
            network[0].weight.fill_(value)
            network[3].running_mean.fill_(-value)
        mean.add(network)
    assert mean.count == 3
    mean.write(network)
    assert network[0].weight.unique().tolist() == [3.0]
    assert network[3].running_mean.unique().tolist() == [-3.0]
