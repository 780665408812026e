"""What detection costs beside plain inference: ``python -m badexpert.bench.throughput``."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

from badexpert.bench.memory import Peak, measure_memory
from badexpert.bench.untuned import calibrated, noise, untrained_suspect, untuned_bundle
from badexpert.describe import versions
from badexpert.errors import BadExpertError
from badexpert.extraction import Bundle
from badexpert.models.vision import VisionSuspect
from badexpert.runtime import resolve_device
from moe_core.bench.program import run

log = logging.getLogger(__name__)

TAIL_SHARES = (1.0, 0.5, 0.25, 0.15, 0.05)
"""1 shares nothing: the suspect and each tuned copy are run whole."""


@dataclass(frozen=True)
class Throughput:
    """Plain inference against detection, on the same inputs, in the same process.

    Attributes:
        tail_share: that was asked for; None is what an extraction chooses by itself.
        cut_share: share of the network's operations that lie behind the cut.
        predict_per_second: images, ``suspect.predict``, median.
        judge_per_second: images, ``detector.judge`` of the default detector, median.
        ratio: time of ``judge`` over time of ``predict``, median over pairs.
        lowest: ratio of a pair.
        highest: ratio of a pair.
    """

    tail_share: float | None
    cut_share: float
    predict_per_second: float
    judge_per_second: float
    ratio: float
    lowest: float
    highest: float


def measure_throughput(
    suspect: VisionSuspect, bundle: Bundle, pixels: Tensor, *, batch_size: int, repeats: int
) -> Throughput:
    """Time both in pairs, each pair in the other order, after one pair that does not count.

    Args:
        pixels: (images, channels, height, width) uint8.
    """
    detector = calibrated(bundle)
    batches = pixels.split(batch_size)
    predicts, judges = [], []
    for pair in range(repeats + 1):
        plain = _Timed(lambda rows: suspect.predict(rows).cpu(), batches)
        judged = _Timed(detector.judge, batches)
        for timed in (plain, judged) if pair % 2 else (judged, plain):
            timed.run()
        predicts.append(plain.seconds)
        judges.append(judged.seconds)
    ratios = [judge / predict for judge, predict in zip(judges[1:], predicts[1:], strict=True)]
    return Throughput(
        tail_share=bundle.record.settings.tail_share,
        cut_share=bundle.record.cut.tail_share,
        predict_per_second=len(pixels) / statistics.median(predicts[1:]),
        judge_per_second=len(pixels) / statistics.median(judges[1:]),
        ratio=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
    )


class _Timed:
    """One pass over all batches; results reach the CPU, so that a device has finished."""

    def __init__(self, call: Callable[[Tensor], object], batches: Sequence[Tensor]) -> None:
        self._call = call
        self._batches = batches
        self.seconds = 0.0

    def run(self) -> None:
        start = perf_counter()
        for rows in self._batches:
            self._call(rows)
        self.seconds = perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    given = _parse(arguments)
    device = resolve_device(given.device)
    suspect = untrained_suspect(given.arch, given.size, device)
    pixels = noise(given.images, suspect)
    rows = []
    for share in (*TAIL_SHARES, None):
        log.info("cut at %s", "what an extraction chooses" if share is None else share)
        bundle = untuned_bundle(suspect, share)
        row = measure_throughput(
            suspect, bundle, pixels, batch_size=given.batch_size, repeats=given.repeats
        )
        rows.append(row)
    peaks = measure_memory(given.memory) if given.memory else ()
    document = {
        "architecture": suspect.origin.architecture,
        "size": given.size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": dict(versions()),
        "images": given.images,
        "batch_size": given.batch_size,
        "pairs": given.repeats,
        "throughput": [asdict(row) for row in rows],
        "memory": [asdict(peak) for peak in peaks],
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(_table(rows, peaks))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m badexpert.bench.throughput", description=__doc__
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--arch", help="as in badexpert; default: ResNet-20 for 32x32 images")
    parser.add_argument("--size", type=int, default=32, help="side of the inputs, in pixels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7, help="pairs that count")
    parser.add_argument(
        "--memory",
        type=int,
        nargs="*",
        default=[500, 5_000, 50_000] * 2,
        help="numbers of images to run 'badexpert detect' on, for its memory; none skips it",
    )
    return parser.parse_args(arguments)


def _table(rows: Sequence[Throughput], peaks: Sequence[Peak]) -> str:
    lines = ["tail share  behind the cut  predict/s  judge/s  ratio (lowest to highest)"]
    for row in rows:
        asked = "default" if row.tail_share is None else f"{row.tail_share:g}"
        lines.append(
            f"{asked:>10}  {row.cut_share:>14.3f}  {row.predict_per_second:>9.0f}  "
            f"{row.judge_per_second:>7.0f}  {row.ratio:.2f} ({row.lowest:.2f} to {row.highest:.2f})"
        )
    lines += [
        f"detect on {peak.images} images ({peak.input_bytes / 1e6:.0f} MB of pixels): "
        f"peak {peak.peak_bytes / 1e6:.0f} MB"
        for peak in peaks
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, BadExpertError)
