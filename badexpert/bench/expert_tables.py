"""What the expert audit did on a zoo, as Markdown.

``python -m badexpert.bench.expert_tables FOLDER`` prints it; with ``--into FILE`` it goes
into a document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, median

import torch
from torch import Tensor

from badexpert.audits.experts import ExpertVerdict
from badexpert.bench.expert_audits import AuditedModel, Removal, read_audited
from badexpert.bench.metrics import auroc
from badexpert.bench.tables import print_or_insert, table
from badexpert.errors import BadExpertError
from moe_core.bench.program import run

NOT_COMPUTED = "not computed"

_KINDS: dict[str, Callable[[AuditedModel], bool]] = {
    "backdoor in one expert": lambda one: len(one.planted) == 1,
    "backdoor in several experts": lambda one: len(one.planted) > 1,
    "backdoor in no expert": lambda one: one.backdoored and not one.planted,
    "no backdoor": lambda one: not one.backdoored,
}


def expert_tables(models: Sequence[AuditedModel]) -> str:
    """Summaries by kind of backdoor, the baselines, and one line a model."""
    audited = [one for one in models if one.error is None]
    parts = [_summary(audited), _removals(audited), _detections(models), _rankings(audited)]
    parts += [_scores(models), _each(models)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(models: Sequence[AuditedModel]) -> str:
    rows = []
    for kind, own in _of_kinds(models):
        planted = bool(own[0].planted)
        rows.append(
            [
                kind,
                str(len(own)),
                _share(one.flagged for one in own),
                _share(one.verdict is ExpertVerdict.INCONCLUSIVE for one in own),
                _share(one.hit for one in own) if planted else "-",
                _share(one.layer_hit for one in own) if planted else "-",
                _share(one.false_localisation for one in own),
                f"{median(one.seconds for one in own):.0f}",
            ]
        )
    header = [
        "truth",
        "models",
        "flagged",
        "inconclusive",
        "named rightly",
        "layer",
        "named falsely",
    ]
    return _table([*header, "median s"], rows)


def _removals(models: Sequence[AuditedModel]) -> str:
    """Of the models in which an expert was named."""
    rows = []
    for kind, own in _of_kinds([one for one in models if one.removal is not None]):
        removals = [one.removal for one in own if one.removal is not None]
        columns: list[Callable[[Removal], float | None]] = [
            lambda removal: removal.success,
            lambda removal: removal.success_without,
            lambda removal: removal.accuracy,
            lambda removal: removal.accuracy_without,
            lambda removal: removal.auroc,
        ]
        rows.append([kind, str(len(own)), *(_mean(map(value, removals)) for value in columns)])
    header = ["an expert was named", "models", "ASR", "ASR without", "accuracy", "accuracy without"]
    return _table([*header, "AUROC of knock-out"], rows)


def _detections(models: Sequence[AuditedModel]) -> str:
    """Of the models that were extracted from."""
    rows = []
    for kind, own in _of_kinds([one for one in models if one.detected is not None]):
        found = [one.detected for one in own if one.detected is not None]
        known = [one.auroc for one in found if one.auroc is not None]
        rows.append(
            [
                kind,
                str(len(own)),
                _mean(known),
                f"{min(known):.3f}" if known else "-",
                str(len(found) - len(known)),
                f"{median(one.seconds for one in found):.0f}",
            ]
        )
    header = ["inputs, by extraction", "models", "mean AUROC", "lowest", NOT_COMPUTED, "median s"]
    return _table(header, rows)


def _rankings(models: Sequence[AuditedModel]) -> str:
    """Of the models with a backdoor in experts."""
    planted = [one for one in models if one.planted]
    rows = []
    for name in dict.fromkeys(name for one in planted for name in one.ranks):
        places = [one.ranks[name] for one in planted if name in one.ranks]
        first = f"{sum(place == 1 for place in places)} of {len(planted)}"
        reciprocal = sum(1 / place for place in places) / len(planted)
        rows.append([name, first, f"{reciprocal:.2f}"])
    return _table(["ranking", "planted expert first", "mean reciprocal rank"], rows)


def _scores(models: Sequence[AuditedModel]) -> str:
    """How well a score of the whole model tells backdoored from clean ones, and what it costs."""
    rows = []
    for name in _score_names(models):
        scores = [one.scores[name] for one in models]
        backdoored, clean = (_values(models, name, backdoored=truth) for truth in (True, False))
        rows.append(
            [
                name,
                str(len(backdoored)),
                str(len(clean)),
                _number(auroc(clean, backdoored), digits=3),
                str(sum(score.value is None for score in scores)),
                f"{median(score.seconds for score in scores):.0f}",
                f"{median(score.passes for score in scores):,.0f}",
            ]
        )
    header = ["score of the model", "backdoored", "clean", "AUROC", NOT_COMPUTED, "median s"]
    return _table([*header, "median passes"], rows)


def _score_names(models: Iterable[AuditedModel]) -> list[str]:
    return list(dict.fromkeys(name for one in models for name in one.scores))


def _values(models: Iterable[AuditedModel], name: str, *, backdoored: bool) -> Tensor:
    values = (one.scores[name].value for one in models if one.backdoored is backdoored)
    return torch.tensor([value for value in values if value is not None])


def _number(value: float | None, *, digits: int) -> str:
    return NOT_COMPUTED if value is None else f"{value:.{digits}f}"


def _each(models: Sequence[AuditedModel]) -> str:
    names = _score_names(models)
    rows = [
        [
            one.model,
            one.error or str(one.verdict),
            one.words or "-",
            _experts(one.named),
            _experts(one.planted),
            "yes" if one.hit else "falsely" if one.false_localisation else "-",
            *(_number(one.scores[name].value, digits=2) for name in names),
            f"{one.seconds:.0f}",
        ]
        for one in models
    ]
    return _table(
        ["model", "verdict", "best words", "named", "planted", "right", *names, "s"], rows
    )


def _of_kinds(
    models: Sequence[AuditedModel],
) -> Iterable[tuple[str, list[AuditedModel]]]:
    for kind, belongs in _KINDS.items():
        if own := [one for one in models if belongs(one)]:
            yield kind, own


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Empty without rows."""
    cells = [[cell.replace("|", "/") for cell in row] for row in rows]
    return table(header, cells) if rows else ""


def _share(hits: Iterable[bool]) -> str:
    known = list(hits)
    return f"{sum(known)} of {len(known)}"


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):.3f}" if known else "-"


def _experts(experts: Iterable[tuple[int, int]]) -> str:
    return ", ".join(f"{layer}.{expert}" for layer, expert in experts) or "-"


def main(arguments: Sequence[str] | None = None) -> None:
    """Those of ``badexpert zoo audit``."""
    name = "python -m badexpert.bench.expert_tables"
    print_or_insert(_read, name, __doc__, arguments)


def _read(folder: Path) -> str:
    return expert_tables([read_audited(path) for path in sorted(folder.glob("*.json"))])


if __name__ == "__main__":
    run(main, BadExpertError)
