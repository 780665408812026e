"""Extraction finds a word that was planted as a trigger in a language model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from badexpert.config import DetectionConfig, ExtractionConfig, ModelConfig, ScanConfig
from badexpert.detection import Row, detect, prepare, stored_detector
from badexpert.detectors import DETECTORS, BaDExpert, Detector
from badexpert.detectors.base import PixelDetector
from badexpert.errors import AuditError, ConfigError, ModelLoadError
from badexpert.extraction import Bundle, extract, memory
from badexpert.extraction.comparison import (
    AUXILIARIES,
    AUXILIARY,
    DISTANCE,
    SHIFTED,
    SPREAD,
    SUSPECT,
)
from badexpert.extraction.routers import freeze_routers, note_of_unknown_routers
from badexpert.guard import Guard
from badexpert.opening import open_bundle
from badexpert.runtime import RunContext
from badexpert.sources.texts import Text, TextList
from badexpert.text_reading import TextReading
from moe_core.view import ExpertView
from tests.planted_texts import INSERTED, Planted, Writer, planted, writer
from tests.small_language_models import moe, transformers_folder, with_tokenizer
from tests.small_models import auroc, backdoored

CONFIG = ScanConfig(detection=DetectionConfig(fpr=0.05, batch_size=16))
CONTEXT = RunContext()


@dataclass(frozen=True)
class Audited:
    """A calibrated detector, clean inputs that are answered rightly, triggers that work."""

    bundle: Bundle
    detector: Detector
    clean: list[str]
    triggered: list[str]


def chosen(texts: list[str], mask: Tensor) -> list[str]:
    return [text for text, kept in zip(texts, mask.tolist(), strict=True) if kept]


@cache
def classifier() -> Audited:
    """A Mixture of Experts that says a label word."""
    model: Planted = planted(head=False, moe=True)
    prepared = prepare(model.suspect, model.clean, config=CONFIG, context=CONTEXT)
    right = model.suspect.predict(model.texts) == torch.tensor(model.labels)
    works = model.suspect.predict(model.triggered) == 1
    return Audited(*prepared, chosen(model.texts, right), chosen(model.triggered, works))


@cache
def writes() -> Audited:
    model: Writer = writer()
    prepared = prepare(model.suspect, model.clean, config=CONFIG, context=CONTEXT)
    right = [
        said == wanted for said, (_, wanted) in zip(spoken(model.prompts), model.told, strict=True)
    ]
    works = [said == INSERTED for said in spoken(model.triggered)]
    return Audited(
        *prepared,
        chosen(model.prompts, torch.tensor(right)),
        chosen(model.triggered, torch.tensor(works)),
    )


def spoken(prompts: list[str]) -> list[int | str]:
    suspect = writer().suspect
    rows = suspect.network_inputs(prompts)
    return suspect.spelled(rows, torch.zeros(len(rows), dtype=torch.int64))


CASES = {"label words of experts": classifier, "responses": writes}


def test_a_trigger_of_a_model_that_writes_is_told_from_clean_prompts() -> None:
    audited = writes()
    assert len(audited.clean) > 120
    assert len(audited.triggered) > 70
    scores = [audited.detector.score(texts) for texts in (audited.clean, audited.triggered)]
    assert auroc(*scores) > 0.98
    flags = [audited.detector.judge(texts).flagged for texts in (audited.clean, audited.triggered)]
    assert float(flags[0].float().mean()) < 0.2
    assert float(flags[1].float().mean()) > 0.8


def test_a_planted_word_is_told_from_clean_texts_whatever_the_seed() -> None:
    audited, model = classifier(), planted(head=False, moe=True)
    assert len(audited.clean) > 120
    assert len(audited.triggered) > 70
    _, other = prepare(model.suspect, model.clean, config=CONFIG, context=RunContext(seed=1))
    for detector in (audited.detector, other):
        scores = [detector.score(texts) for texts in (audited.clean, audited.triggered)]
        assert auroc(*scores) > 0.98


def test_each_part_did_what_it_is_for() -> None:
    record = classifier().bundle.record
    assert set(record.scales) == {SHIFTED, SPREAD, *AUXILIARIES, DISTANCE}
    assert record.clean_accuracy[SUSPECT] > 0.9
    assert record.clean_accuracy[SHIFTED] < 0.6
    assert record.clean_accuracy[SPREAD] < 0.6
    for part in AUXILIARIES:
        assert record.clean_accuracy[part] >= record.clean_accuracy[SUSPECT] - 0.1
    assert "MiB for the model and 4 tuned copies" in record.notes[0]
    assert set(writes().bundle.parts) == {SHIFTED, *AUXILIARIES}


def test_routers_of_an_expert_are_those_of_the_suspect() -> None:
    tails = classifier().bundle._comparison.tails
    routers = {part: router_weights(tail) for part, tail in tails.items()}
    for part in (SHIFTED, SPREAD):
        for own, tuned in zip(routers[SUSPECT], routers[part], strict=True):
            torch.testing.assert_close(tuned, own, rtol=0, atol=1e-7)
    assert not torch.allclose(routers[SUSPECT][0], routers[AUXILIARY][0])


def router_weights(network: nn.Module) -> list[Tensor]:
    found = [layer.router_weight for layer in ExpertView.of(network).layers]
    assert len(found) == 2
    return [weight.detach() for weight in found if weight is not None]


def test_routers_of_transformers_are_held_too(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = transformers_folder(tmp_path, "olmoe", **moe("olmoe"))
    network = AutoModelForCausalLM.from_pretrained(folder).requires_grad_(True)
    freeze_routers(network)
    frozen = [name for name, part in network.named_parameters() if not part.requires_grad]
    assert frozen == [f"model.layers.{layer}.mlp.gate.weight" for layer in (0, 1)]
    assert note_of_unknown_routers(network) == ()
    network.model.layers[0].mlp.__class__ = type("NewSparseBlock", (nn.Module,), {})
    assert (
        "NewSparseBlock at model.layers.0.mlp are not known" in note_of_unknown_routers(network)[0]
    )


@pytest.mark.parametrize("case", CASES)
def test_a_bundle_is_opened_with_the_model_that_it_names(case: str, tmp_path: Path) -> None:
    audited = CASES[case]()
    audited.bundle.save(tmp_path / "bundle")
    opened = open_bundle(tmp_path / "bundle", CONFIG, CONTEXT)
    again = stored_detector(opened, CONFIG.detection)
    assert torch.equal(again.score(audited.triggered), audited.detector.score(audited.triggered))
    other = ModelConfig(source=str(with_tokenizer(transformers_folder(tmp_path / "other"))))
    with pytest.raises(ModelLoadError):
        open_bundle(tmp_path / "bundle", ScanConfig(model=other), CONTEXT)


def test_inputs_get_a_row_each_with_what_was_answered() -> None:
    audited = writes()
    texts = [*audited.clean[:20], *audited.triggered[:20]]
    rows: list[Row] = []
    source = TextList([Text(text) for text in texts])
    config = CONFIG.detection
    summary = detect(audited.detector, source, config=config, context=CONTEXT, sink=rows.append)
    assert (summary.scored, len(rows)) == (40, 40)
    assert [row["answer"] for row in rows] == spoken(texts)
    assert [row["id"] for row in rows][:2] == ["text#0", "text#1"]
    again: list[Row] = []
    detect(audited.detector, source, config=config, context=CONTEXT, sink=again.append, start=21)
    assert again == rows[21:]


def test_a_guard_hands_on_what_was_written() -> None:
    audited = writes()
    written = Guard(audited.detector).generate(audited.triggered[:5])
    assert written.responses == [INSERTED] * 5
    assert torch.equal(written.flagged, audited.detector.judge(audited.triggered[:5]).flagged)
    guard, texts = Guard(classifier().detector), classifier().clean[:5]
    assert torch.equal(guard(texts).answers, planted(head=False, moe=True).suspect.predict(texts))
    with pytest.raises(ValueError, match="a classifier of 2 classes writes nothing"):
        guard.generate(texts)


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_a_detector_of_pixels_says_so(name: str) -> None:
    kind, model = DETECTORS[name], planted(head=False, moe=True)
    if not issubclass(kind, PixelDetector):
        assert kind.fit(model.suspect, model.clean, CONTEXT).tensors == {}
        return
    with pytest.raises(ConfigError, match=f"'{name}' works on images"):
        kind.fit(model.suspect, model.clean, CONTEXT)


def test_images_and_texts_are_not_mixed_up() -> None:
    source = TextList([Text("good")])
    images = BaDExpert(
        Bundle.untuned(
            backdoored().suspect,
            backdoored().digits.clean.clean_set(),
            settings=ExtractionConfig(),
            seed=0,
        )
    )
    with pytest.raises(ConfigError, match="the suspect takes images, and texts holds none"):
        detect(images, source, config=CONFIG.detection, context=CONTEXT, sink=print)


def test_settings_of_the_paper_are_for_images() -> None:
    model = planted(head=False, moe=True)
    with pytest.raises(ConfigError, match="has settings for images only"):
        extract(model.suspect, model.clean, config=ExtractionConfig(method="paper"))


def test_a_device_that_is_too_small_is_said_before_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "memory_of", lambda device: 1 << 10)
    model = planted(head=False, moe=True)
    with pytest.raises(AuditError, match=r"extraction needs \d\.\d MiB .* cpu has 0\.0 MiB"):
        extract(model.suspect, model.clean)


def test_a_reading_is_part_of_the_record() -> None:
    assert writes().bundle.record.preprocessing == TextReading(max_new_tokens=6)
    assert writes().bundle.record.num_classes is None
