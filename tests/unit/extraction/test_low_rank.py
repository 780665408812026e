"""Extraction with low-rank updates: one model's weights, several copies, the same detection."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from badexpert.config import FULL, LOW_RANK, Copies, DetectionConfig, ExtractionConfig, ScanConfig
from badexpert.detection import prepare, stored_detector
from badexpert.detectors import Detector
from badexpert.errors import AuditError, ConfigError, ModelLoadError
from badexpert.extraction import Bundle, extract, memory
from badexpert.extraction.comparison import DISTANCE, SHIFTED, SPREAD, SUSPECT
from badexpert.extraction.low_rank import has_updates, size_of_updates, tuned_state, with_updates
from badexpert.extraction.memory import choose_copies, memory_of_copies
from badexpert.extraction.tuning import MeanWeights, trainable_copy
from badexpert.guard import Guard
from badexpert.opening import open_bundle
from badexpert.runtime import RunContext
from badexpert.scanning import extraction_status
from moe_core.updates import RANK
from tests.planted_texts import planted
from tests.small_models import auroc, backdoored

CONFIG = ScanConfig(
    extraction=ExtractionConfig(copies=LOW_RANK),
    detection=DetectionConfig(fpr=0.05, batch_size=16),
)
CPU = torch.device("cpu")


class Extracted(NamedTuple):
    """With the bytes of all tensors that there were, beyond those before, at the worst moment."""

    bundle: Bundle
    detector: Detector
    peak: int


@cache
def extracted() -> Extracted:
    model = planted(head=True)
    before, peaks = bytes_alive(), [0]

    def measure(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        steps = next(state["step"] for state in optimizer.state.values())
        if steps == 2:
            peaks.append(bytes_alive() - before)

    hook = register_optimizer_step_post_hook(measure)
    prepared = prepare(model.suspect, model.clean, config=CONFIG, context=RunContext(seed=1))
    hook.remove()
    return Extracted(*prepared, max(peaks))


def bytes_alive() -> int:
    """Of all tensors that Python knows."""
    gc.collect()
    return bytes_of(item for item in gc.get_objects() if type(item) in (Tensor, nn.Parameter))


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Of storages, each counted once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_a_planted_word_is_told_from_clean_texts() -> None:
    model, detector = planted(head=True), extracted().detector
    right = (model.suspect.predict(model.texts) == torch.tensor(model.labels)).tolist()
    clean = [text for text, is_right in zip(model.texts, right, strict=True) if is_right]
    works = (model.suspect.predict(model.triggered) == 1).tolist()
    triggered = [text for text, does in zip(model.triggered, works, strict=True) if does]
    assert min(len(clean), len(triggered)) > 70
    assert auroc(detector.score(clean), detector.score(triggered)) > 0.9


def test_all_copies_share_the_weights_of_the_suspect() -> None:
    bundle, suspect = extracted().bundle, planted(head=True).suspect
    tails = bundle._comparison.tails
    held = [t for tail in tails.values() for t in (*tail.parameters(), *tail.buffers())]
    own = list(suspect.network.parameters())
    size = size_of_updates(suspect.network)
    assert len(tails) == 5
    assert bytes_of(held) - bytes_of(own) == 4 * 4 * size
    assert bytes_of([*held, *own]) == bytes_of(held)
    for part in (SHIFTED, SPREAD):
        assert bundle.record.clean_accuracy[part] < 0.6
    assert bundle.record.clean_accuracy[SUSPECT] > 0.9


def test_what_is_said_before_the_start_is_what_it_takes() -> None:
    model = planted(head=True)
    needed = memory_of_copies(model.suspect.network, 4, LOW_RANK)
    said, *_ = extracted().bundle.record.notes
    assert said.startswith("low-rank updates are tuned")
    assert f"{needed / 2**20:.1f} MiB for the model and 4 tuned copies" in said
    # The tokens of the texts, of which half are tuned on, are held too, and some small tensors.
    tokens = model.suspect.encode([text.text for text in model.clean.texts()])
    beside = extracted().peak + bytes_of(model.suspect.network.parameters()) - needed
    assert 0 <= beside < 2 * bytes_of([tokens])


def test_a_scan_says_what_was_tuned() -> None:
    status = extraction_status(extracted().bundle)
    assert "low-rank updates of the last 100.0% of the network's operations" in status.summary
    assert status.evidence["copies"] == LOW_RANK


def test_a_bundle_holds_the_updates_alone(tmp_path: Path) -> None:
    bundle, detector, _ = extracted()
    model = planted(head=True)
    bundle.save(tmp_path)
    size = size_of_updates(model.suspect.network)
    stored = load_file(tmp_path / "weights.safetensors")
    updates = [tensor for name, tensor in stored.items() if not name.startswith(f"{DISTANCE}.")]
    assert bytes_of(updates) == 4 * 4 * size
    assert len(stored) == len(updates) + 3
    opened = open_bundle(tmp_path, CONFIG, RunContext())
    assert opened.record.copies == LOW_RANK
    assert all(has_updates(opened._comparison.tails[part]) for part in opened.parts)
    again = stored_detector(opened, CONFIG.detection)
    assert torch.equal(again.score(model.triggered), detector.score(model.triggered))
    guard = Guard(again)
    assert torch.equal(guard(model.texts[:5]).answers, model.suspect.predict(model.texts[:5]))


@pytest.mark.parametrize("other", [FULL, "neither"])
def test_a_bundle_of_updates_is_not_taken_for_another(tmp_path: Path, other: str) -> None:
    extracted().bundle.save(tmp_path)
    record = tmp_path / "bundle.json"
    text = record.read_text()
    record.write_text(text.replace('\n "copies": "low-rank"', f'\n "copies": "{other}"'))
    assert record.read_text() != text
    with pytest.raises(ModelLoadError, match="Extract again"):
        Bundle.load(tmp_path, planted(head=True).suspect)


def test_updates_of_a_changed_file_are_refused(tmp_path: Path) -> None:
    extracted().bundle.save(tmp_path)
    weights = tmp_path / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ModelLoadError, match="its sha256 is not the one"):
        Bundle.load(tmp_path, planted(head=True).suspect)


def test_memory_of_a_known_model() -> None:
    """A map of 8 to 6 in half precision: 48 numbers, or 8 and 6 times the rank."""
    network = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 6, bias=False)).to(torch.bfloat16)
    assert memory_of_copies(network, 3, FULL) == 2 * 88 + 88 * (4 * 4 + 12)
    assert memory_of_copies(network, 3, LOW_RANK) == 2 * 88 + (8 + 6) * RANK * (5 * 4 + 12)


def test_memory_of_olmoe_is_what_the_documents_say() -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        config = transformers.OlmoeConfig(intermediate_size=1024)
        network = transformers.OlmoeForCausalLM(config).to(torch.bfloat16)
    full, low_rank = (memory_of_copies(network, 4, kind) for kind in (FULL, LOW_RANK))
    weights = bytes_of_numbers(network, 2)
    said = f"{weights:.1f} GiB for its weights and {low_rank / 2**30 - weights:.1f} GiB more"
    text = " ".join((Path(__file__).parents[3] / "docs/language-models.md").read_text().split())
    assert f"OLMoE-1B-7B in bfloat16 takes {said}" in text
    assert f"full copies take {full / 2**30 - weights:.0f} GiB more" in text


def bytes_of_numbers(network: nn.Module, width: int) -> float:
    """In GiB."""
    return sum(part.numel() for part in network.parameters()) * width / 2**30


@pytest.mark.parametrize(
    ("there", "wanted", "kind"),
    [(7_000, None, FULL), (6_000, None, LOW_RANK), (7_000, LOW_RANK, LOW_RANK), (700, None, "")],
)
def test_full_copies_are_chosen_where_they_fit(
    there: int, wanted: Copies | None, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "memory_of", lambda device: there * 1024)
    network = nn.Sequential(nn.Linear(256, 512, bias=False))
    assert memory_of_copies(network, 4, FULL) == (512 + 4096) * 1024
    if kind:
        chosen, said = choose_copies(network, 4, wanted, CPU)
        assert chosen == kind
        assert said.startswith("full copies" if kind == FULL else "low-rank updates")
    else:
        with pytest.raises(AuditError, match="Use a larger device"):
            choose_copies(network, 4, wanted, CPU)


def test_full_copies_that_do_not_fit_are_refused_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "memory_of", lambda device: 1 << 20)
    with pytest.raises(AuditError, match=r"extraction needs 4\.5 MiB .*Leave extraction.copies"):
        choose_copies(nn.Sequential(nn.Linear(256, 512, bias=False)), 4, FULL, CPU)


def test_images_have_full_copies() -> None:
    with pytest.raises(ConfigError, match="is for language models"):
        extract(
            backdoored().suspect,
            backdoored().digits.clean.clean_set(),
            config=ExtractionConfig(copies=LOW_RANK),
        )


def test_the_mean_of_updates_answers_in_the_middle() -> None:
    start = with_updates(nn.Sequential(nn.Linear(8, 6)), torch.Generator().manual_seed(0))
    copied, mean = trainable_copy(start), MeanWeights()
    x, answers = torch.randn(5, 8), []
    for state in torch.randn(3, 6, RANK):
        tuned_state(copied)["0.low_rank.B"].copy_(state)
        answers.append(copied(x).detach())
        mean.add(copied)
    mean.write(copied)
    torch.testing.assert_close(copied(x).detach(), torch.stack(answers).mean(0))
    assert not tuned_state(start)["0.low_rank.B"].any()


def test_half_precision_stays_what_it_is_and_its_updates_are_single() -> None:
    """A step far below what bfloat16 could hold beside a weight is not lost."""
    base = nn.Sequential(nn.Linear(64, 4)).to(torch.bfloat16)
    copied = trainable_copy(with_updates(base, torch.Generator().manual_seed(0)))
    x = torch.randn(3, 64, dtype=torch.bfloat16)
    optimizer = torch.optim.Adam(copied.parameters(), lr=1e-6)
    loss = copied(x).float().square().mean()
    loss.backward()
    optimizer.step()
    moved = tuned_state(copied)["0.low_rank.B"]
    assert moved.dtype == torch.float32
    assert 0 < moved.abs().max() < 2e-6
    assert copied[0].weight.dtype == torch.bfloat16
    assert copied[0].weight.data_ptr() == base[0].weight.data_ptr()
