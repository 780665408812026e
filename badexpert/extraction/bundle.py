"""What an extraction leaves behind, on disk: tuned weights, and JSON that says whose they are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from badexpert.config import LOW_RANK, ExtractionConfig
from badexpert.errors import AuditError, ConfigError, ModelLoadError
from badexpert.extraction.comparison import DISTANCE, SUSPECT, Comparison, Views
from badexpert.extraction.gaussian import Gaussian
from badexpert.extraction.low_rank import has_updates, sharing_copy, tuned_state, with_updates
from badexpert.extraction.record import RECORD, Record, read_record
from badexpert.extraction.tuning import single_precision_copy
from badexpert.models.origin import digest_file
from badexpert.models.vision import VisionSuspect
from badexpert.split import WHOLE, Cut, NetworkGraph
from badexpert.suspect import Inputs, Suspect
from badexpert.textset import CleanSamples

_WEIGHTS = "weights.safetensors"
_FITTED = "fitted"
"""First part of the names of tensors that belong to a detector and not to a tuned copy."""


class Bundle:
    """A suspect with its backdoor experts and its auxiliary, and what detectors were fitted with.

    Attributes:
        suspect: the model under audit.
        record: what is known about the extraction.
        fitted: what each detector learned from clean samples, by detector and by a name of the
            detector's choice.
    """

    def __init__(
        self,
        suspect: Suspect,
        record: Record,
        trunk: nn.Module,
        tails: Mapping[str, nn.Module],
        fitted: Mapping[str, Mapping[str, Tensor]] | None = None,
        gaussian: Gaussian | None = None,
    ) -> None:
        """Take the trunk, and the tails by part, the suspect's among them.

        Raises:
            AuditError: the clean samples were looked at in a place that the tail has not.
        """
        self.suspect = suspect
        self.record = record
        self.fitted = dict(fitted or {})
        self._comparison = Comparison(
            suspect, trunk, tails, entry=record.cut.node, gaussian=gaussian
        )

    @classmethod
    def untuned(
        cls, suspect: Suspect, clean: CleanSamples, *, settings: ExtractionConfig, seed: int
    ) -> Bundle:
        """The suspect alone, for detectors that need no tuned copies."""
        record = Record.of(
            suspect,
            cut=WHOLE,
            settings=settings,
            seed=seed,
            clean_digest=clean.digest(),
            samples={},
            clean_accuracy={},
            scales={},
            trajectories={},
            notes=clean.gaps,
        )
        trunk, tail = split_suspect(suspect, WHOLE)
        return cls(suspect, record, trunk, {SUSPECT: tail})

    @property
    def parts(self) -> tuple[str, ...]:
        """The tuned copies that there are."""
        return tuple(part for part in self._comparison.tails if part != SUSPECT)

    def view(self, inputs: Inputs, parts: Collection[str] | None = None) -> Views:
        """How pixels, (batch, channels, height, width), or texts look to suspect and copies."""
        return self._comparison.view(inputs, parts)

    def look(self, inputs: Inputs, parts: Collection[str] | None = None) -> Views:
        """``view``, differentiable in floating pixels: for an attacker who knows the defence."""
        return self._comparison.look(inputs, parts)

    def save(self, folder: Path) -> None:
        """Write the bundle; the record goes last, so that a torn bundle is never taken for one.

        Raises:
            ConfigError: the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / RECORD).unlink(missing_ok=True)
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors()}
            _replace(folder / _WEIGHTS, lambda path: save_file(_unshared(tensors), path))
            record = replace(self.record, weights=digest_file(folder / _WEIGHTS).sha256)
            _replace(folder / RECORD, lambda path: path.write_text(record.to_json()))
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"cannot write the bundle to {folder}: {error}") from error

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for part in self.parts:
            for name, tensor in tuned_state(self._comparison.tails[part]).items():
                yield f"{part}.{name}", tensor
        if self._comparison.gaussian is not None:
            for name, tensor in self._comparison.gaussian.state().items():
                yield f"{DISTANCE}.{name}", tensor
        for detector, state in self.fitted.items():
            for name, tensor in state.items():
                yield f"{_FITTED}.{detector}.{name}", tensor

    @classmethod
    def load(cls, folder: Path, suspect: Suspect) -> Bundle:
        """Read a bundle back and join it with the suspect that it was extracted from.

        Raises:
            ModelLoadError: no bundle, a damaged one, or one of another suspect.
        """
        record = read_record(folder)
        if record.preprocessing != suspect.preprocessing:
            raise ModelLoadError(
                f"{folder} was extracted with other preprocessing: {record.preprocessing}; this "
                f"suspect has {suspect.preprocessing}. Load it as it was, or extract again"
            )
        if record.suspect != suspect.origin.sha256:
            raise ModelLoadError(
                f"{folder} was extracted from another model: its suspect has sha256 "
                f"{record.suspect[:12]}…, this one {suspect.origin.sha256[:12]}…. "
                "Extract again from this model"
            )
        tensors = _read_weights(folder / _WEIGHTS, record.weights)
        try:
            trunk, tail = split_suspect(suspect, record.cut)
            low_rank = record.copies == LOW_RANK
            start = with_updates(tail, torch.Generator()) if low_rank else tail
            tuned = {
                part: _restored(start, tensors, part) for part in record.scales if part != DISTANCE
            }
            gaussian = None
            if DISTANCE in record.scales:
                gaussian = Gaussian.from_state(_below(tensors, DISTANCE)).to(suspect.device)
            return cls(
                suspect,
                record,
                trunk,
                {SUSPECT: tail, **tuned},
                _fitted(tensors, suspect.device),
                gaussian,
            )
        except (AuditError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ModelLoadError(
                f"{folder} does not fit this suspect: {reason}. Extract again"
            ) from error


def split_suspect(suspect: Suspect, cut: Cut) -> tuple[nn.Module, nn.Module]:
    """Trunk and tail of a suspect at a known cut.

    Raises:
        AuditError: it has no such cut.
    """
    if cut == WHOLE:
        return nn.Identity(), suspect.network
    if not isinstance(suspect, VisionSuspect):
        raise AuditError(f"a language model is not cut, and here is a cut after {cut.node!r}")
    return graph_of(suspect).split(cut)


def graph_of(suspect: VisionSuspect) -> NetworkGraph:
    """The suspect's network as a graph that can be cut."""
    shape = suspect.preprocessing
    example = torch.zeros(2, shape.channels, shape.height, shape.width, device=suspect.device)
    return NetworkGraph(suspect.network, example.to(suspect.network.mean.dtype))


def _read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    try:
        if digest_file(path).sha256 != sha256:
            raise ModelLoadError(
                f"{path} is damaged or from another bundle: its sha256 is not the one that "
                f"{RECORD} names. Extract again"
            )
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(f"{path} cannot be read: {error}. Extract again") from error


def _restored(start: nn.Module, tensors: Mapping[str, Tensor], part: str) -> nn.Module:
    """A copy of what tuning started from, with the tensors of one tuned copy.

    Raises:
        RuntimeError: there are other ones than belong to it.
    """
    restored = sharing_copy(start) if has_updates(start) else single_precision_copy(start)
    found = _below(tensors, part)
    if tuned_state(restored).keys() != found.keys():
        raise RuntimeError(f"tensors of {part} have no place or are missing")
    restored.load_state_dict(found, strict=False)
    return restored


def _fitted(tensors: dict[str, Tensor], device: torch.device) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{_FITTED}."):
            _, detector, name = key.split(".", 2)
            found.setdefault(detector, {})[name] = tensor.to(device)
    return found


def _below(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part, by what they are called in it."""
    prefix = f"{part}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Safetensors refuses tied weights; give each name its own memory."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a draft beside ``path`` and move it there, so that no half-written file is found."""
    draft = path.with_name(path.name + ".part")
    write(draft)
    draft.replace(path)
