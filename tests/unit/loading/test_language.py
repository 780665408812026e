"""Language models are built from data alone; what asks for more, or does not fit, is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from badexpert.errors import ModelLoadError, UnsafeModelError
from badexpert.loading.language import is_language_model, load_language_model
from moe_core.lm import Decoder, DecoderConfig
from moe_core.lm.folder import save_decoder
from moe_core.mixlora import MixLoraConfig, adapter_of, attach, save_adapter
from tests import small_decoders
from tests.small_language_models import (
    edit,
    lora_folder,
    moe,
    transformers_folder,
    with_tokenizer,
)

IDS = torch.tensor([[3, 4, 5, 6]])
LENGTHS = torch.tensor([4])
INFINITE = {"__float__": "Infinity"}
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tokenizer(transformers_folder(tmp_path_factory.mktemp("llama")))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    for file in whole.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("kind", ["olmoe", "mixtral", "qwen3_moe"])
def test_experts_that_lie_apart_on_disk_are_put_together(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = with_tokenizer(transformers_folder(tmp_path, kind, **moe(kind)))
    model = load_language_model(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    ours = model.backbone.last(IDS, LENGTHS).logits
    torch.testing.assert_close(ours, theirs(IDS).logits[:, -1], rtol=0, atol=1e-5)
    assert model.origin.architecture == f"transformers:{type(theirs).__name__}"


@pytest.mark.parametrize(
    ("said", "meant"),
    [(INFINITE, float("inf")), ({"__float__": "-Infinity"}, float("-inf")), (7.5, 7.5)],
)
def test_numbers_that_json_lacks_are_read_as_transformers_writes_them(
    folder: Path, said: object, meant: float
) -> None:
    edit(folder / CONFIG, router_limits={"each": [0.0, said]}, unlike={"__float__": "os.system"})
    config = load_language_model(folder).backbone.module.config
    assert config.router_limits == {"each": [0.0, meant]}
    assert config.unlike == {"__float__": "os.system"}


def test_weights_keep_their_type(tmp_path: Path) -> None:
    folder = with_tokenizer(transformers_folder(tmp_path, dtype="bfloat16"))
    model = load_language_model(folder)
    assert {part.dtype for part in model.backbone.parameters()} == {torch.bfloat16}
    assert model.origin.stored_dtype == "bfloat16"


def test_shards_are_read_and_kept_in_the_folder(folder: Path) -> None:
    before = load_language_model(folder).backbone.last(IDS, LENGTHS).logits
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = folder / f"{WEIGHTS}.index.json"
    where = {name: file for file, part in parts.items() for name in part}
    index.write_text(json.dumps({"weight_map": where}))
    model = load_language_model(folder)
    torch.testing.assert_close(model.backbone.last(IDS, LENGTHS).logits, before)
    assert len(model.origin.files) == 4  # shards, configuration, tokenizer
    index.write_text(json.dumps({"weight_map": where | {names[0]: "../../etc/passwd"}}))
    with pytest.raises(ModelLoadError, match="outside the model's folder"):
        load_language_model(folder)


def test_a_decoder_whose_description_is_gone_is_refused(tmp_path: Path) -> None:
    save_decoder(small_decoders.decoder(), tmp_path)
    edit(tmp_path / CONFIG, model_type="moe_core")
    with pytest.raises(ModelLoadError, match="holds no model of moe_core"):
        load_language_model(tmp_path)


def test_a_classifier_of_our_own_names_its_classes(tmp_path: Path) -> None:
    made = Decoder(DecoderConfig(dim=16, num_layers=1, classes=("no", "yes"))).eval()
    assert save_decoder(made, tmp_path) == "moe_core"
    model = load_language_model(tmp_path)
    assert model.class_names == ("no", "yes")
    assert model.codec.encode("é") == [0xC3, 0xA9]
    assert torch.equal(model.backbone.last(IDS, LENGTHS).logits, made(IDS, LENGTHS).logits)


def test_names_of_classes_come_from_the_configuration(tmp_path: Path) -> None:
    labels = {0: "no", 1: "maybe", 2: "yes"}
    kind = {"head": "ForSequenceClassification", "pad_token_id": 0, "id2label": labels}
    folder = with_tokenizer(transformers_folder(tmp_path, "bert", **kind))
    assert load_language_model(folder).class_names == ("no", "maybe", "yes")
    edit(folder / CONFIG, id2label={str(i): f"LABEL_{i}" for i in range(3)})
    assert load_language_model(folder).class_names == ()


def test_lora_is_added_to_the_weights_that_it_names(whole: Path, tmp_path: Path) -> None:
    name = "model.layers.1.self_attn.q_proj"
    tensors = lora_folder(tmp_path / "lora", {name: (16, 16)}, use_rslora=True)
    plain = load_language_model(whole)
    adapted = load_language_model(whole, adapter=tmp_path / "lora")
    a, b = tensors.values()
    for path, weight in plain.backbone.module.named_parameters():
        changed = adapted.backbone.module.get_parameter(path)
        update = 6 / 2**0.5 * b @ a if path == f"{name}.weight" else torch.zeros(())
        torch.testing.assert_close(changed, weight + update)
    assert adapted.origin.sha256 != plain.origin.sha256
    assert [Path(file.path).name for file in adapted.origin.files][-2:] == [
        "adapter_model.safetensors",
        "adapter_config.json",
    ]


def test_what_was_trained_as_a_whole_replaces_its_like(whole: Path, tmp_path: Path) -> None:
    lora_folder(tmp_path / "lora", {})
    head = torch.randn(40, 16)
    save_file(
        {"base_model.model.lm_head.weight": head}, tmp_path / "lora/adapter_model.safetensors"
    )
    adapted = load_language_model(whole, adapter=tmp_path / "lora")
    assert torch.equal(adapted.backbone.module.get_parameter("lm_head.weight"), head)


@pytest.mark.parametrize(
    ("targets", "settings", "words"),
    [
        ({"model.nowhere": (16, 16)}, {}, "changes model.nowhere.weight .* has nothing"),
        ({"lm_head": (16, 16)}, {}, r"where this model has \(40, 16\)"),
        ({"lm_head": (40, 16)}, {"peft_type": "IA3"}, "peft_type is IA3; LORA and MIXLORA"),
        ({"lm_head": (40, 16)}, {"use_dora": True}, "uses use_dora"),
        ({"lm_head": (40, 16)}, {"lora_alpha": "6"}, "lora_alpha must be a number"),
        ({"lm_head": (40, 16)}, {"alpha_pattern": [1]}, "alpha_pattern must be an object"),
        ({"lm_head": (40, 16)}, {"peft_type": "MIXLORA"}, "does not fit this model"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    targets: dict[str, tuple[int, int]],
    settings: dict[str, object],
    words: str,
    whole: Path,
    tmp_path: Path,
) -> None:
    lora_folder(tmp_path / "lora", targets, **settings)
    with pytest.raises(ModelLoadError, match=words):
        load_language_model(whole, adapter=tmp_path / "lora")


def test_tensors_that_plain_lora_does_not_have_are_refused(whole: Path, tmp_path: Path) -> None:
    tensors = lora_folder(tmp_path / "lora", {"lm_head": (40, 16)})
    magnitude = {"base_model.model.lm_head.lora_magnitude_vector": torch.ones(40)}
    save_file(tensors | magnitude, tmp_path / "lora/adapter_model.safetensors")
    with pytest.raises(ModelLoadError, match="no part of a plain LoRA"):
        load_language_model(whole, adapter=tmp_path / "lora")


def test_a_mixlora_adapter_becomes_experts(whole: Path, tmp_path: Path) -> None:
    made, config = load_language_model(whole), MixLoraConfig(num_experts=3)
    for parameter in attach(made.backbone.module, config):
        torch.nn.init.normal_(parameter, std=0.3)
    save_adapter(adapter_of(made.backbone.module, config), tmp_path)
    read = load_language_model(whole, adapter=tmp_path)
    expected = made.backbone.eval().last(IDS, LENGTHS).logits
    torch.testing.assert_close(read.backbone.last(IDS, LENGTHS).logits, expected)
    assert read.origin.parameters > load_language_model(whole).origin.parameters


def ask_for_code(folder: Path) -> None:
    edit(folder / CONFIG, auto_map={"AutoModelForCausalLM": "evil.Net"})


def nested(depth: int) -> list[object]:
    return [nested(depth - 1)] if depth else []


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors.pop("model.norm.weight")
    save_file(tensors, folder / WEIGHTS)


def add_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors | {"model.extra.weight": torch.ones(3)}, folder / WEIGHTS)


def poison_with_nan(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (ask_for_code, "never run"),
        (drop_a_tensor, "1 missing: model.norm.weight"),
        (add_a_tensor, "1 unexpected: model.extra.weight"),
        (poison_with_nan, "NaN or infinity: model.norm.weight"),
        (lambda f: edit(f / CONFIG, quantization_config={"bits": 4}), "quantised"),
        (lambda f: edit(f / CONFIG, model_type="evil"), "does not know the model_type 'evil'"),
        (lambda f: edit(f / CONFIG, model_type="mixtral"), "names LlamaForCausalLM"),
        (
            lambda f: edit(f / CONFIG, architectures=["LlamaModel"]),
            "Export the model with its head",
        ),
        (lambda f: edit(f / CONFIG, num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
        (lambda f: edit(f / CONFIG, num_hidden_layers=INFINITE), "num_hidden_layers is inf"),
        (lambda f: edit(f / CONFIG, hidden_size=INFINITE), "no configuration of llama"),
        (lambda f: edit(f / CONFIG, extra=nested(800)), "is nested too deeply"),
        (lambda f: edit(f / CONFIG, vocab_size=10**9), "announces 32,0"),
        (lambda f: edit(f / CONFIG, hidden_size="wide"), "no configuration of llama"),
        (lambda f: edit(f / CONFIG, hidden_size=24), "do not fit LlamaForCausalLM"),
        (lambda f: (f / CONFIG).unlink(), "has no config.json"),
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json cannot be read"),
        (lambda f: (f / WEIGHTS).write_bytes(b"GGUF\3\0"), "GGUF holds quantised"),
    ],
)
def test_a_damaged_or_hostile_folder_is_refused(
    folder: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(folder)
    with pytest.raises(ModelLoadError, match=words):
        load_language_model(folder)


def test_code_is_refused_as_unsafe(folder: Path) -> None:
    ask_for_code(folder)
    with pytest.raises(UnsafeModelError):
        load_language_model(folder)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_configuration_does_not_choose_kernels(folder: Path, key: str) -> None:
    """A name with a slash would be fetched from the hub, and is code."""
    edit(folder / CONFIG, **{key: "evil/kernel"})
    module = load_language_model(folder).backbone.module
    assert "evil" not in str(module.config._attn_implementation)


def test_a_pickle_that_runs_code_is_refused(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    with pytest.raises(UnsafeModelError, match="posix.system"):
        load_language_model(folder)


def test_files_of_language_models_are_told_apart(whole: Path, tmp_path: Path) -> None:
    assert is_language_model(whole)
    (tmp_path / "model.gguf").write_bytes(b"GGUF\3\0\0\0")
    assert is_language_model(tmp_path / "model.gguf")
    with pytest.raises(ModelLoadError, match="GGUF holds quantised language models. Give the"):
        load_language_model(tmp_path / "model.gguf")
    assert not is_language_model(whole / WEIGHTS)
    assert not is_language_model(tmp_path)


def test_without_transformers_the_error_says_what_to_install(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ModelLoadError, match=r"pip install 'badexpert\[language\]'"):
        load_language_model(whole)
