"""``badexpert repair``: take what named experts know out of a language model."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options, outputs, session

if TYPE_CHECKING:
    from badexpert.config import ScanConfig
    from badexpert.repairing import Repair
    from badexpert.runtime import RunContext

log = logging.getLogger(__name__)

THE_REPAIR = "The repair"
STILL_WORKS = 0.05
"""Attack success rate above which a repair is said to have failed."""

COSTLY = 0.02
"""Loss of clean accuracy above which a repair is said to cost too much."""

ROWS = {"before": "as it was", "dropped": "these experts answer 0", "after": "repaired"}


def repair(
    experts: Annotated[
        str,
        typer.Option(
            rich_help_panel=THE_REPAIR,
            metavar="LAYER:EXPERT[,...]",
            help="Which ones, counted from 0 among the layers with experts; or by the full names "
            "that 'experts' gives them.",
        ),
    ],
    suspect: options.Suspect = None,
    way: Annotated[
        str,
        typer.Option(
            rich_help_panel=THE_REPAIR,
            help="quarantine: nothing in their place; mean: the mean of their siblings; "
            "compressed: the same, and a few numbers learned from half of the clean texts.",
        ),
    ] = "quarantine",
    output: options.Folder = Path("repaired"),
    adapter: options.Adapter = None,
    clean: options.Clean = None,
    limit: options.Limit = None,
    triggered: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=options.DATA, help="Texts with a trigger, to measure its success."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=options.DATA,
            help="Class that the trigger leads to, by name or index; with --triggered.",
        ),
    ] = None,
    device: options.Device = None,
    seed: options.Seed = None,
    config: options.Config = None,
    format: options.Formats = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write a copy of a Mixture-of-Experts language model without what some experts know.

    Clean accuracy, and the trigger's success where one is given, are measured before and after, and
    with the experts merely silenced. The folder is read again and compared before it is kept.
    """
    flags = options.given(
        model__source=suspect,
        model__adapter=adapter,
        clean__source=clean,
        clean__limit=limit,
        device=device,
        seed=seed,
    )
    settings = session.start(flags, file=config, quiet=quiet, verbose=verbose).config
    attack = _paired(triggered, target)
    targets = outputs.parse_targets(format or ["text"], None, RENDERERS)
    outputs.require_new_folder(output)
    with session.running(settings) as context:
        made = _repaired(experts.split(","), way, attack, settings, context)
        with outputs.new_folder(output) as folder:
            written = made.save(folder)
    document = {
        "folder": str(output),
        **made.to_json(),
        "written": written._asdict(),
        "seed": settings.seed,
    }
    outputs.deliver(targets, lambda target: RENDERERS[target.format](document, target))
    _warn(made)


def _paired(triggered: Path | None, target: str | None) -> tuple[Path, str] | None:
    from badexpert.errors import ConfigError

    if triggered is None and target is None:
        return None
    if triggered is None or target is None:
        raise ConfigError("--triggered and --target go together; give both, or neither")
    return triggered, target


def _repaired(
    experts: list[str],
    way: str,
    attack: tuple[Path, str] | None,
    settings: ScanConfig,
    context: RunContext,
) -> Repair:
    from badexpert.opening import open_subjects, required_clean
    from badexpert.repairing import open_triggered, repair, require_way

    require_way(way)
    suspect, clean = open_subjects(settings, context)
    return repair(
        suspect,
        experts,
        required_clean(clean),
        way=way,
        triggered=None if attack is None else open_triggered(*attack, suspect),
        context=context,
    )


def _warn(made: Repair) -> None:
    success = made.after.attack_success_rate
    cost = made.before.clean_accuracy - made.after.clean_accuracy
    if success is not None and success > STILL_WORKS:
        log.warning("the trigger still works: what it needs is not in these experts alone")
    if cost > COSTLY:
        log.warning("the repair costs %.3f of the clean accuracy: try another --way", cost)


def _as_json(document: dict[str, Any], _target: outputs.Target) -> str:
    return json.dumps(document, indent=2) + "\n"


def _as_text(document: dict[str, Any], target: outputs.Target) -> str:
    from rich.console import Group
    from rich.table import Table

    from . import text

    facts = {
        "experts": document["experts"],
        "way": f"{document['way']}: {document['done']}",
        "clean texts": document["clean_texts"],
        "triggered texts": document["triggered_texts"] or None,
        "read again": f"scores differ by {document['written']['difference']:.1g} at most",
    }
    table = Table(box=None, padding=(0, 2), header_style="dim")
    columns = ["clean_accuracy"]
    if document["triggered_texts"]:
        columns.append("attack_success_rate")
    for name in ("", *columns):
        table.add_column(name.replace("_", " "))
    for key, words in ROWS.items():
        table.add_row(words, *(f"{document[key][name]:.3f}" for name in columns))
    content = Group(text.facts(f"Repaired model {document['folder']}", facts), "", table)
    return text.to_string(content, terminal=target.path is None).lstrip("\n")


RENDERERS = {"text": _as_text, "json": _as_json}
