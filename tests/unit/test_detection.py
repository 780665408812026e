"""A stream of inputs, judged in order, resumed without a trace, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from badexpert.config import CleanConfig, DetectionConfig, ScanConfig
from badexpert.detection import Row, detect, prepare, split_clean, stored_detector
from badexpert.detectors import Detector
from badexpert.errors import CleanSetError, ConfigError
from badexpert.extraction import Bundle
from badexpert.findings import InputsSummary
from badexpert.runtime import RunContext
from badexpert.sources import ImageSource, RawImage, Unreadable
from tests.small_models import backdoored

CONFIG = DetectionConfig(fpr=0.02, batch_size=16)
CONTEXT = RunContext()


class Memory(ImageSource):
    """Images in memory, some of them unreadable."""

    name = "memory"

    def __init__(self, images: np.ndarray, broken: Iterable[int] = ()) -> None:
        self.images = images
        self.broken = set(broken)

    def __len__(self) -> int:
        return len(self.images)

    def item_id(self, index: int) -> str:
        return f"image {index}"

    def read(self, indices: Iterable[int]) -> Iterator[tuple[int, RawImage | Unreadable]]:
        for index in indices:
            raw = self.images[index]
            yield (index, Unreadable(self.item_id(index), "torn") if index in self.broken else raw)


@cache
def prepared() -> tuple[Bundle, Detector]:
    model = backdoored()
    config = ScanConfig(detection=CONFIG)
    return prepare(model.suspect, model.digits.clean.clean_set(), config=config, context=CONTEXT)


@cache
def images() -> np.ndarray:
    """60 clean images, then 40 triggered ones."""
    model = backdoored()
    clean = model.clean_inputs[:60].float() / 255
    return torch.cat([clean, model.triggered[:40]])[:, 0].numpy()


def run(
    source: ImageSource, start: int = 0, config: DetectionConfig = CONFIG, to: Path | None = None
) -> tuple[InputsSummary, list[Row]]:
    rows: list[Row] = []
    summary = detect(
        prepared()[1],
        source,
        config=config,
        context=CONTEXT,
        sink=rows.append,
        start=start,
        copy_to=to,
    )
    return summary, rows


def test_triggered_inputs_are_flagged_and_clean_ones_are_not() -> None:
    summary, rows = run(Memory(images()))
    assert summary.scored == 100
    assert sum(row["flagged"] for row in rows[:60]) <= 5
    assert sum(row["flagged"] for row in rows[60:]) >= 38
    assert summary.flagged == sum(row["flagged"] for row in rows)
    assert {row["answer"] for row in rows[60:] if row["flagged"]} == {0}


@pytest.mark.parametrize("broken", [[0], [99], [15, 16, 17], range(16, 48), range(80, 100)])
def test_every_input_has_its_row_in_order_also_an_unreadable_one(broken: Iterable[int]) -> None:
    broken = set(broken)
    summary, rows = run(Memory(images(), broken))
    assert [row["id"] for row in rows] == [f"image {index}" for index in range(100)]
    assert {i for i, row in enumerate(rows) if row.get("error") == "torn"} == broken
    assert len(summary.unreadable) == len(broken)
    assert summary.scored == 100 - len(broken)


def test_nothing_readable_is_a_row_each_too() -> None:
    summary, rows = run(Memory(images(), range(100)))
    assert [row["id"] for row in rows] == [f"image {index}" for index in range(100)]
    assert summary.scored == 0


@pytest.mark.parametrize("start", [1, 16, 50, 99, 100])
def test_a_resumed_run_repeats_the_full_one_to_the_last_bit(start: int) -> None:
    source = Memory(images(), [3, 49, 50, 51])
    _, rows = run(source)
    summary, rest = run(source, start)
    assert rest == rows[start:]
    assert summary.scored + len(summary.unreadable) == 100 - start


def test_workers_change_nothing() -> None:
    source = Memory(images(), [3, 49])
    assert run(source, config=replace(CONFIG, workers=2)) == run(source)


def test_batches_are_all_that_is_held() -> None:
    class Watched(Memory):
        ahead = 0
        worst = 0

        def read(self, indices: Iterable[int]) -> Iterator[tuple[int, RawImage | Unreadable]]:
            for item in super().read(indices):
                self.ahead += 1
                self.worst = max(self.worst, self.ahead)
                yield item

    source = Watched(np.tile(images(), (10, 1, 1)))

    def sink(row: Row) -> None:
        source.ahead -= 1

    detect(prepared()[1], source, config=CONFIG, context=CONTEXT, sink=sink)
    assert source.worst <= 3 * CONFIG.batch_size


def test_flagged_images_are_copied(tmp_path: Path) -> None:
    _, rows = run(Memory(images()), to=tmp_path)
    flagged = [index for index, row in enumerate(rows) if row["flagged"]]
    assert sorted(int(path.name[:7]) for path in tmp_path.iterdir()) == flagged


def test_a_saved_bundle_judges_as_the_detector_that_made_it(tmp_path: Path) -> None:
    bundle, detector = prepared()
    bundle.save(tmp_path)
    again = stored_detector(Bundle.load(tmp_path, bundle.suspect), CONFIG)
    assert again.threshold == detector.threshold
    pixels = torch.from_numpy(images()).unsqueeze(1)
    assert torch.equal(again.judge(pixels).flagged, detector.judge(pixels).flagged)


def test_a_rate_that_the_stored_scores_cannot_support_is_refused() -> None:
    with pytest.raises(CleanSetError, match="needs at least 9999 calibration samples"):
        stored_detector(prepared()[0], DetectionConfig(fpr=0.0001))


def test_a_detector_that_was_not_calibrated_is_refused() -> None:
    with pytest.raises(ConfigError, match="no calibration for detector 'badexpert-paper'"):
        stored_detector(prepared()[0], DetectionConfig(detector="badexpert-paper"))


def test_an_unknown_detector_is_refused_before_the_long_work() -> None:
    config = ScanConfig(detection=DetectionConfig(detector="nonsense"))
    with pytest.raises(ConfigError, match="no detector 'nonsense'; known are badexpert"):
        split_clean(backdoored().digits.clean.clean_set(), config)


def test_too_few_samples_are_refused_before_the_long_work() -> None:
    clean = backdoored().digits.clean.clean_set().take(100, seed=0)
    with pytest.raises(CleanSetError, match="needs at least 99 calibration samples; got 50"):
        split_clean(clean, ScanConfig())


def test_the_configured_share_is_held_out() -> None:
    clean = backdoored().digits.clean.clean_set()
    config = ScanConfig(clean=CleanConfig(calibration=0.3))
    fit, calibration = split_clean(clean, replace(config, detection=CONFIG))
    assert (len(fit), len(calibration)) == (350, 150)
