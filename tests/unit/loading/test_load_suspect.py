"""From a path and an architecture to a suspect that answers as the network did."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from badexpert.errors import ModelLoadError
from badexpert.loading import load_suspect
from badexpert.preprocessing import PreprocessingOverrides
from tests.unit.loading import networks

SMALL = PreprocessingOverrides(height=8, width=8)
PLAIN = PreprocessingOverrides(height=32, width=32, mean=(0, 0, 0), std=(1, 1, 1))
OWN = "python:tests.unit.loading.networks:"
TINY_VIT: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
}


def save(module: nn.Module, path: Path, prefix: str = "") -> Path:
    torch.save({prefix + name: tensor for name, tensor in module.state_dict().items()}, path)
    return path


def same_answers(suspect: Any, module: nn.Module) -> bool:
    plan = suspect.preprocessing
    pixels = torch.rand(3, plan.channels, plan.height, plan.width)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (plan.mean, plan.std))
    with torch.no_grad():
        expected = module.eval()((pixels - mean) / std)
        return torch.allclose(suspect.logits(pixels), expected, atol=1e-4)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "net.", "module._orig_mod.", "model.module."]
)
def test_shared_prefixes_come_off(prefix: str, tmp_path: Path) -> None:
    module = networks.Small(7)
    path = save(module, tmp_path / "m.pt", prefix)
    suspect = load_suspect(path, arch=OWN + "Small", preprocessing=SMALL)
    assert suspect.num_classes == 7
    assert same_answers(suspect, module)


@pytest.mark.parametrize("outer", ["", "module."])
def test_a_prefix_that_the_network_itself_has_stays(outer: str, tmp_path: Path) -> None:
    module = networks.wrapped(4)
    path = save(module, tmp_path / "m.pt", outer)
    suspect = load_suspect(path, arch=OWN + "wrapped", preprocessing=SMALL)
    assert suspect.num_classes == 4
    assert same_answers(suspect, module)


def test_a_prefix_that_not_every_tensor_has_stays_and_is_reported(tmp_path: Path) -> None:
    tensors = {f"model.{k}": v for k, v in networks.Small(3).state_dict().items()}
    torch.save({**tensors, "loss.weight": torch.ones(3)}, tmp_path / "m.pt")
    with pytest.raises(ModelLoadError, match=r"not in the architecture: model\.conv\.weight"):
        load_suspect(tmp_path / "m.pt", arch=OWN + "Small", preprocessing=SMALL)


@pytest.mark.parametrize("channels", [1, 3])
def test_timm_classes_and_channels_are_read_off_the_tensors(channels: int, tmp_path: Path) -> None:
    module = timm.create_model("resnet10t", num_classes=43, in_chans=channels)
    path = save(module, tmp_path / "m.pt")
    suspect = load_suspect(path, arch="timm:resnet10t", preprocessing=SMALL)
    assert (suspect.num_classes, suspect.preprocessing.channels) == (43, channels)
    assert same_answers(suspect, module)


def test_torchvision_classes_are_read_off_the_tensors(tmp_path: Path) -> None:
    module = torchvision.models.squeezenet1_1(num_classes=6)
    path = save(module, tmp_path / "m.pt")
    suspect = load_suspect(path, arch="torchvision:squeezenet1_1", preprocessing=PLAIN)
    assert suspect.num_classes == 6
    assert same_answers(suspect, module)


def test_sizes_of_a_transformer_are_read_off_the_tensors(tmp_path: Path) -> None:
    module = timm.create_model("vit_tiny_patch16_224", num_classes=9, **TINY_VIT)
    path = save(module, tmp_path / "m.pt")
    suspect = load_suspect(path, arch="timm:vit_tiny_patch16_224", arch_args={"num_heads": 2})
    assert same_answers(suspect, module)
    assert dict(suspect.origin.arch_args).items() >= TINY_VIT.items()
    assert (suspect.preprocessing.height, suspect.preprocessing.width) == (16, 16)
    assert "height" not in suspect.origin.assumed


def test_the_number_of_heads_is_asked_for_and_never_guessed(tmp_path: Path) -> None:
    module = timm.create_model("vit_tiny_patch16_224", num_classes=9, **TINY_VIT)
    path = save(module, tmp_path / "m.pt")
    with pytest.raises(ModelLoadError, match="Give num_heads"):
        load_suspect(path, arch="timm:vit_tiny_patch16_224")


def test_a_factory_without_arguments_is_called_without(tmp_path: Path) -> None:
    module = networks.fixed()
    path = save(module, tmp_path / "m.pt")
    suspect = load_suspect(path, arch=OWN + "fixed", preprocessing=SMALL)
    assert (suspect.num_classes, suspect.preprocessing.channels) == (5, 1)
    assert same_answers(suspect, module)


def test_networks_that_end_in_softmax_are_recognised(tmp_path: Path) -> None:
    path = save(networks.small_softmax(4), tmp_path / "m.pt")
    suspect = load_suspect(path, arch=OWN + "small_softmax", preprocessing=SMALL)
    assert suspect.outputs == "probabilities"
    assert suspect.num_classes == 4


def test_half_precision_is_computed_in_single(tmp_path: Path) -> None:
    path = save(networks.Small(3).half(), tmp_path / "m.pt")
    suspect = load_suspect(path, arch=OWN + "Small", preprocessing=SMALL)
    assert suspect.origin.stored_dtype == "float16"
    assert next(suspect.module.parameters()).dtype == torch.float32


def test_loading_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    path = save(networks.Small(3), tmp_path / "m.pt")
    state = torch.random.get_rng_state()
    load_suspect(path, arch=OWN + "Small", preprocessing=SMALL)
    assert torch.equal(torch.random.get_rng_state(), state)


# What goes wrong.


def test_a_mismatch_lists_the_tensors_and_the_nearest_architecture(tmp_path: Path) -> None:
    path = save(timm.create_model("resnet18", num_classes=10), tmp_path / "m.pt")
    with pytest.raises(ModelLoadError) as error:
        load_suspect(path, arch="timm:resnet34", preprocessing=PLAIN)
    message = str(error.value)
    assert "missing from the file: layer1.2.conv1.weight" in message
    assert "Nearest: timm:resnet18 (98% of the tensors match)" in message
    assert len(message) < 2000


def test_without_an_architecture_the_nearest_is_suggested(tmp_path: Path) -> None:
    path = save(timm.create_model("mobilenetv2_100", num_classes=10), tmp_path / "m.pt")
    with pytest.raises(ModelLoadError, match=r"--arch.*Nearest: timm:mobilenetv2_100"):
        load_suspect(path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_classes": 11}, "has 7 classes, but 11 were asked for"),
        ({"arch": "timm:resnet18x"}, "not known here. Did you mean resnet18"),
        ({"arch": "torchvision:fasterrcnn_resnet50_fpn"}, "not known here"),
        ({"arch": "timm:hf-hub:org/evil"}, "not known here"),
        ({"arch": "resnet18"}, "timm:NAME, torchvision:NAME or python:"),
        ({"arch": "python:no.such.module:make"}, "PYTHONPATH"),
        ({"arch": "python:tests.unit.loading.networks"}, "package.module:factory"),
        ({"arch": OWN + "gone"}, "no callable 'gone'"),
        ({"arch": OWN + "NOT_CALLABLE"}, "no callable"),
        ({"arch": OWN + "failing"}, "the disk of the factory is full"),
        ({"arch": OWN + "no_module"}, "returned str, not a torch.nn.Module"),
        ({"arch_args": {"checkpoint_path": "evil.pth"}}, "'checkpoint_path' is refused"),
        ({"arch_args": {"pretrained": True}}, "'pretrained' is refused"),
        ({"arch_args": {"depth": object()}}, "must be a number"),
        ({"arch_args": {"no_such": 1}}, "cannot be built with"),
        ({"preprocessing": PreprocessingOverrides()}, "Give height and width"),
        ({"preprocessing": PreprocessingOverrides(height=9, width=9)}, "fails on a batch of 3x9x9"),
        ({"preprocessing": PreprocessingOverrides(8, 8, mean=(0.5,))}, "mean needs 3 values"),
    ],
)
def test_mistakes_say_what_to_do(arguments: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = save(networks.Small(7), tmp_path / "m.pt")
    with pytest.raises(ModelLoadError) as error:
        load_suspect(path, **{"arch": OWN + "Small", "preprocessing": SMALL, **arguments})
    assert says in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"gone\.pt does not exist"):
        load_suspect(tmp_path / "gone.pt", arch="timm:resnet18")


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    module = networks.Small(3)
    module.fc.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelLoadError, match=r"NaN or infinity: fc\.weight"):
        load_suspect(save(module, tmp_path / "m.pt"), arch=OWN + "Small", preprocessing=SMALL)


@pytest.mark.parametrize("given", ["folder", "file"])
def test_code_that_came_with_the_model_is_never_imported(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(networks.Small(3), tmp_path / "m.pt")
    (tmp_path / "came_along.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelLoadError, match="lies beside the suspect"):
        load_suspect(path if given == "file" else tmp_path, arch="python:came_along:make")
    assert not (tmp_path / "ran").exists()


def test_code_of_ones_own_elsewhere_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "code").mkdir()
    path = save(networks.Small(3), tmp_path / "model" / "m.pt")
    text = "from tests.unit.loading.networks import Small\n\ndef make(num_classes):\n"
    (tmp_path / "code" / "own_networks.py").write_text(text + "    return Small(num_classes)\n")
    monkeypatch.syspath_prepend(tmp_path / "code")
    suspect = load_suspect(path, arch="python:own_networks:make", preprocessing=SMALL)
    assert suspect.num_classes == 3


# Folders in timm's layout.


def timm_folder(folder: Path, **config: Any) -> nn.Module:
    module = timm.create_model("vit_tiny_patch16_224", num_classes=9, **TINY_VIT)
    save_file(module.state_dict(), folder / "model.safetensors")
    cfg = {"input_size": [3, 16, 16], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}
    cfg |= {"interpolation": "bicubic", "crop_pct": 0.9}
    content: dict[str, Any] = {"architecture": "vit_tiny_patch16_224", "num_classes": 9}
    content |= {"model_args": TINY_VIT, "pretrained_cfg": cfg, **config}
    (folder / "config.json").write_text(json.dumps(content))
    return module


def test_a_timm_folder_needs_nothing_else(tmp_path: Path) -> None:
    module = timm_folder(tmp_path)
    suspect = load_suspect(tmp_path)
    plan = suspect.preprocessing
    assert (plan.mean, plan.interpolation, plan.crop_share) == ((0.5, 0.4, 0.3), "bicubic", 0.9)
    assert suspect.origin.preprocessing_source == "timm configuration"
    assert suspect.origin.assumed == ()
    assert same_answers(suspect, module)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"architecture": "hf-hub:org/evil"}, "does not know"),
        ({"architecture": None, "architectures": ["ViTForImageClassification"]}, "transformers"),
        ({"architecture": None, "auto_map": {"AutoModel": "evil.Net"}}, "never run"),
        ({"architecture": None}, "does not say its architecture"),
        ({"model_args": {"depth": 10**9}}, "hostile"),
        ({"model_args": {"checkpoint_path": "evil.pth"}}, "refused"),
        ({"model_args": {"pretrained": True}}, "refused"),
        ({"model_args": [1]}, "must be an object"),
    ],
)
def test_a_configuration_cannot_reach_out(
    config: dict[str, Any], says: str, tmp_path: Path
) -> None:
    timm_folder(tmp_path, **config)
    with pytest.raises(ModelLoadError, match=says):
        load_suspect(tmp_path)


def test_code_named_by_a_configuration_is_ignored_when_timm_knows_the_network(
    tmp_path: Path,
) -> None:
    timm_folder(tmp_path, auto_map={"AutoModel": "evil.Net"})
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    assert load_suspect(tmp_path).num_classes == 9


# Where it came from.


def test_the_origin_identifies_the_file(tmp_path: Path) -> None:
    module = networks.Small(3)
    path = save(module, tmp_path / "m.pt")
    origin = load_suspect(path, arch=OWN + "Small", preprocessing=SMALL).origin
    assert origin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert origin.source == str(path)
    assert origin.format == "torch zip"
    assert origin.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert (origin.preprocessing_source, origin.assumed) == ("assumed", ("mean", "std"))


def test_a_stated_preprocessing_is_given_not_assumed(tmp_path: Path) -> None:
    path = save(networks.Small(3), tmp_path / "m.pt")
    stated = PreprocessingOverrides(8, 8, 3, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    origin = load_suspect(path, arch=OWN + "Small", preprocessing=stated).origin
    assert (origin.preprocessing_source, origin.assumed) == ("given", ())


def test_defaults_of_the_architecture_are_assumed_but_its_crop_only_at_its_size(
    tmp_path: Path,
) -> None:
    path = save(timm.create_model("resnet10t", num_classes=4), tmp_path / "m.pt")
    small = load_suspect(path, arch="timm:resnet10t", preprocessing=SMALL)
    assert small.preprocessing.mean == (0.485, 0.456, 0.406)
    assert small.preprocessing.crop_share == 1
    assert small.origin.assumed == ("mean", "std")
    own = load_suspect(path, arch="timm:resnet10t")
    assert own.preprocessing.crop_share < 1
    assert own.origin.assumed == ("height", "width", "mean", "std")
