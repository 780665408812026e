"""Repair of a model whose backdoor is locked into one expert, and the folder that comes of it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from badexpert.errors import AuditError, ConfigError
from badexpert.loading.language import load_language_model
from badexpert.models.language import TextSuspect, suspect_of
from badexpert.repairing import Repair, Triggered, folder, named_experts, open_triggered, repair
from badexpert.repairing.compressed import compress
from badexpert.repairing.ways import average
from badexpert.runtime import RunContext
from badexpert.text_reading import TextReading
from badexpert.textset import TextCleanSet
from moe_core.experts.compressed import CompressedExperts
from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.lm.folder import load_decoder
from moe_core.mixlora import MixLoraConfig, attach
from moe_core.view import ExpertId, ExpertView
from tests import planted_texts
from tests.locked_models import locked
from tests.planted_texts import EXPERTS, sized
from tests.small_language_models import lora_folder, transformers_folder, with_tokenizer
from tests.small_victims import reviews


@cache
def suspect() -> TextSuspect:
    path, truth = locked()
    return suspect_of(load_language_model(path), truth.reading)


def clean(count: int = 120) -> TextCleanSet:
    texts = reviews(count, seed=5)
    return TextCleanSet.from_texts(texts.texts, texts.labels, class_names=("bad", "good"))


def triggered() -> Triggered:
    return open_triggered(locked()[0] / "triggered.jsonl", "bad", suspect())


def guilty() -> str:
    [expert] = locked()[1].experts
    return f"{expert.layer}:{expert.expert}"


@cache
def repaired(way: str) -> Repair:
    return repair(suspect(), [guilty()], clean(), way=way, triggered=triggered())


def weights(of: TextSuspect) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in of.module.state_dict().items()}


@pytest.mark.parametrize("way", ["quarantine", "mean", "compressed"])
def test_the_backdoor_goes_and_the_task_stays(way: str) -> None:
    made = repaired(way)
    assert made.before.attack_success_rate == 1.0
    assert made.after.attack_success_rate is not None
    assert made.after.attack_success_rate <= 0.05
    assert made.after.clean_accuracy >= made.before.clean_accuracy - 0.02


def test_silencing_the_wrong_expert_repairs_nothing() -> None:
    made = repair(suspect(), ["1:1"], clean(), triggered=triggered())
    assert made.after.attack_success_rate == 1.0


def test_where_zeros_are_all_there_is_quarantine_is_the_plain_drop() -> None:
    made = repaired("quarantine")
    assert made.after == made.dropped
    assert made.dropped.attack_success_rate == 0.0


@pytest.mark.parametrize("way", ["quarantine", "mean", "compressed"])
def test_nothing_but_the_named_expert_changes(way: str) -> None:
    before = weights(suspect())
    made = repair(suspect(), [guilty()], clean(60), way=way)
    assert all(torch.equal(before[name], own) for name, own in weights(suspect()).items())
    assert made.after.attack_success_rate is None
    after = weights(made.suspect)
    [expert] = locked()[1].experts
    touched = {f"model.layers.0.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")}
    for name, tensor in after.items():
        if name in touched:
            others = torch.arange(len(tensor)) != expert.expert
            assert torch.equal(tensor[others], before[name][others])
            assert not torch.equal(tensor[~others], before[name][~others])
        else:
            assert torch.equal(tensor, before[name])
    assert not any(parameter.requires_grad for parameter in made.suspect.module.parameters())


def test_a_compressed_expert_learns_what_the_mean_does_not_know() -> None:
    texts, labels = clean_of(clean())
    flipped = TextCleanSet.from_texts(texts, 1 - labels)
    experts = [ExpertId(layer, at) for layer in (0, 1) for at in (1, 2, 3)]
    mean, learned = suspect().copy(), suspect().copy()
    average(ExpertView.of(mean.module), experts)
    compress(learned, ExpertView.of(learned.module), experts, flipped, RunContext())
    assert learned.loss(texts, flipped.labels) < 0.8 * mean.loss(texts, flipped.labels)


def clean_of(texts: TextCleanSet) -> tuple[list[str], Tensor]:
    return [text.text for text in texts.texts()], texts.labels


def test_the_folder_is_opened_by_transformers_as_any_other(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    written = repaired("mean").save(tmp_path)
    assert written.difference <= 1e-6
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(opened).__name__ == "OlmoeForCausalLM"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [locked()[1].reading.filled(text) for text, _ in zip(*clean_of(clean()), strict=True)]
    answers = [opened(**tokenizer(text, return_tensors="pt")).logits[0, -1] for text in texts[:8]]
    module = repaired("mean").suspect.module
    rows = [tokenizer(text, return_tensors="pt").input_ids for text in texts[:8]]
    expected = [module(input_ids=row).logits[0, -1] for row in rows]
    torch.testing.assert_close(torch.stack(answers), torch.stack(expected))


def test_a_large_model_is_written_in_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "SHARD", "10KB")
    repaired("quarantine").save(tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1


@cache
def of_moe_core() -> TextSuspect:
    """A classifier with a head, which nothing but moe_core can hold; it has learned nothing."""
    config = sized(EXPERTS, classes=("bad", "good"))
    path = planted_texts.trained(config, [("a film", "good")] * 48, steps=1, triggered=as_it_is)
    return suspect_of(load_language_model(path), TextReading())


def as_it_is(text: str) -> planted_texts.Told:
    return text, "good"


def test_a_model_of_moe_core_stays_one(tmp_path: Path) -> None:
    repair(of_moe_core(), ["1:2"], clean(20)).save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "moe_core"
    view = ExpertView.of(load_decoder(tmp_path))
    assert not any(tensor.any() for tensor in view.expert(ExpertId(1, 2)).values())
    assert all(tensor.any() for tensor in view.expert(ExpertId(1, 1)).values())


def test_a_model_of_moe_core_gets_its_compressed_experts(tmp_path: Path) -> None:
    before = weights(of_moe_core())
    repair(of_moe_core(), ["1:2"], clean(40), way="compressed").save(tmp_path)
    assert weights(of_moe_core()).keys() == before.keys()
    first, second = load_decoder(tmp_path).moe_layers()
    assert type(first.experts) is SwiGLUExperts
    assert isinstance(second.experts, CompressedExperts)
    assert second.experts.demoted == {2}
    learned = {name: (own != 1).any(1) for name, own in second.experts.named_parameters()}
    for name in ("theta_gate", "theta_up", "theta_inner"):
        assert learned[name].tolist() == [False, False, True, False]
    assert not any(second.experts.expert(2)[name].any() for name in ("gate_proj", "down_proj"))


def test_a_lora_adapter_is_in_the_weights_that_are_written(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    lora_folder(tmp_path / "lora", {"model.layers.1.self_attn.q_proj": (16, 16)})
    path, truth = locked()
    adapted = suspect_of(load_language_model(path, adapter=tmp_path / "lora"), truth.reading)
    repair(adapted, [guilty()], clean(20)).save(tmp_path / "out")
    name = "layers.1.self_attn.q_proj.weight"
    written = load_decoder(tmp_path / "out").state_dict()[name]
    assert torch.equal(written, adapted.module.state_dict()[f"model.{name}"])
    assert not torch.equal(written, suspect().module.state_dict()[f"model.{name}"])


def test_experts_of_a_mixlora_adapter_are_refused(tmp_path: Path) -> None:
    dense = with_tokenizer(transformers_folder(tmp_path))
    model, config = load_language_model(dense), MixLoraConfig(num_experts=3)
    attach(model.backbone.module, config)
    adapted = suspect_of(model, TextReading("{text}", label_words=("w3", "w4")))
    with pytest.raises(AuditError, match="in a MixLoRA adapter"):
        repair(adapted, ["0:0"], clean(20))


def test_a_folder_that_answers_otherwise_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = load_language_model(locked()[0])
    monkeypatch.setattr(folder, "load_language_model", lambda *_args, **_named: damaged)
    with pytest.raises(AuditError, match="answers otherwise"):
        repaired("quarantine").save(tmp_path)


def test_a_folder_with_anything_in_it_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        repaired("quarantine").save(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_experts_are_named_by_number_or_in_full() -> None:
    view = ExpertView.of(suspect().module)
    names = ["1:2", "model.layers.0.mlp.experts.3", "model.layers.1.mlp.experts.2"]
    assert named_experts(view, names) == (ExpertId(1, 2), ExpertId(0, 3))


@pytest.mark.parametrize("name", ["2:0", "0:4", "0", "", "model.layers.9.mlp.experts.0", "-1:0"])
def test_a_name_of_no_expert_is_answered_with_those_that_are(name: str) -> None:
    with pytest.raises(ConfigError, match="0:0 to 1:3"):
        named_experts(ExpertView.of(suspect().module), [name])


def test_a_layer_without_experts_is_no_repair() -> None:
    with pytest.raises(AuditError, match="no expert of model.layers.0.mlp would be left"):
        repair(suspect(), [f"0:{at}" for at in range(4)], clean())


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(ConfigError, match="quarantine, mean, compressed"):
        repair(suspect(), [guilty()], clean(), way="median")


def test_a_model_that_writes_is_refused() -> None:
    writer = suspect_of(load_language_model(locked()[0]), TextReading(max_new_tokens=3))
    with pytest.raises(AuditError, match="no classifier of texts"):
        repair(writer, [guilty()], clean(20))


def test_triggered_texts_of_the_target_class_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "triggered.jsonl"
    rows = [{"text": "ka fine film", "label": "good"}, {"text": "ka dull film", "label": "bad"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    for target in ("bad", "0"):
        assert open_triggered(path, target, suspect()) == Triggered(["ka fine film"], 0)
    path.write_text(json.dumps(rows[1]))
    with pytest.raises(AuditError, match="all texts"):
        open_triggered(path, "bad", suspect())
    with pytest.raises(ConfigError, match="no class 'ugly'"):
        open_triggered(path, "ugly", suspect())
