"""A copy of the suspect without what named experts know, and what that costs and brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from badexpert.audits.experts.audit import expert_view
from badexpert.audits.experts.named import full_name, named_experts, require_siblings
from badexpert.describe import describe_suspect, versions
from badexpert.errors import ConfigError
from badexpert.findings import Json
from badexpert.models.language import TextSuspect
from badexpert.repairing.compressed import compress
from badexpert.repairing.folder import Written, write_verified
from badexpert.repairing.measured import (
    Measured,
    Trial,
    Triggered,
    classifier_of_texts,
    labelled_texts,
)
from badexpert.repairing.ways import average, quarantine
from badexpert.runtime import RunContext, Step
from badexpert.suspect import Suspect
from badexpert.textset import CleanSamples

COMPRESSED = "compressed"
_UNLEARNED = {"quarantine": quarantine, "mean": average}
WAYS = (*_UNLEARNED, COMPRESSED)


@dataclass(frozen=True, eq=False)
class Repair:
    """A repaired model, still in memory.

    Attributes:
        suspect: the repaired copy, with the origin of the model that it was made from.
        experts: full names of those that were replaced.
        way: one of ``WAYS``.
        done: what that meant in this model.
        trial: the texts that all of the following was measured on.
        before: the suspect as it was.
        dropped: the suspect while these experts answer 0, the plainest repair.
        after: the repaired copy.
    """

    suspect: TextSuspect
    experts: tuple[str, ...]
    way: str
    done: str
    trial: Trial
    before: Measured
    dropped: Measured
    after: Measured

    def save(self, folder: Path) -> Written:
        """Write the model in the form that it came in, read it again, and compare the answers.

        Args:
            folder: is there, and empty.
        Raises:
            AuditError: what was written answers otherwise.
            ModelLoadError: what was written cannot be read.
            ValueError: the folder is not empty.
        """
        return write_verified(self.suspect, folder, self.trial)

    def to_json(self) -> dict[str, Json]:
        """All of it but the weights, as plain data."""
        return {
            "suspect": describe_suspect(self.suspect),
            "experts": list(self.experts),
            "way": self.way,
            "done": self.done,
            "clean_texts": len(self.trial.clean),
            "triggered_texts": self.trial.num_triggered,
            "before": self.before._asdict(),
            "dropped": self.dropped._asdict(),
            "after": self.after._asdict(),
            "versions": dict(versions()),
        }


def repair(
    suspect: Suspect,
    experts: Sequence[str],
    clean: CleanSamples,
    *,
    way: str = "quarantine",
    triggered: Triggered | None = None,
    context: RunContext | None = None,
) -> Repair:
    """Take what some experts know out of a copy of a model, and measure what that changes.

    Args:
        suspect: a classifier of texts with Mixture-of-Experts layers; is not changed.
        experts: see ``named_experts``.
        clean: labelled texts. All serve the measurement, but for ``compressed``, which learns from
            one half and is measured, as all that it is compared with, on the other.
        way: of ``WAYS``: ``quarantine`` leaves nothing in the expert's place, ``mean`` the mean of
            its siblings, ``compressed`` the same with a few numbers learned.
        triggered: texts to measure the attack success rate on.
        context: device, seed, progress.
    Raises:
        ConfigError: there is no such expert or way.
        AuditError: experts of this model cannot be replaced in this way.
        CleanSetError: there are too few texts to learn from.
    """
    context = context or RunContext()
    require_way(way)
    suspect, clean = classifier_of_texts(suspect), labelled_texts(clean)
    view = expert_view(suspect)
    chosen = named_experts(view, experts)
    require_siblings(view, chosen)
    fitting, measuring = clean, clean
    if way == COMPRESSED:
        fitting, measuring = clean.split(0.5, seed=context.seed_for("texts of the repair"))
    trial = Trial.of(suspect, measuring, triggered)
    before = trial.measure(suspect)
    context.progress(Step("measure the repair", 1, 3))
    with view.zeroed(chosen):
        dropped = trial.measure(suspect)
    context.progress(Step("measure the repair", 2, 3))
    repaired = suspect.copy()
    copied = expert_view(repaired)
    if way == COMPRESSED:
        done = compress(repaired, copied, chosen, fitting, context)
    else:
        done = _UNLEARNED[way](copied, chosen)
    repaired.network.requires_grad_(False)
    after = trial.measure(repaired)
    context.progress(Step("measure the repair", 3, 3))
    names = tuple(full_name(view, expert) for expert in chosen)
    return Repair(repaired, names, way, done, trial, before, dropped, after)


def require_way(way: str) -> None:
    """Try now whether there is such a way, rather than after a large model was loaded.

    Raises:
        ConfigError: it is not of ``WAYS``.
    """
    if way not in WAYS:
        raise ConfigError(f"there is no way of repair {way!r}; choose of {', '.join(WAYS)}")
