"""Experts as a person names them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from badexpert.errors import AuditError, ConfigError
from moe_core.view import ExpertId, ExpertView


def named_experts(view: ExpertView, names: Iterable[str]) -> tuple[ExpertId, ...]:
    """Experts by name, each once.

    Args:
        names: ``LAYER:EXPERT``, counted from 0 among the layers that have experts, or in full as
            findings have them, ``model.layers.1.mlp.experts.3``.
    Raises:
        ConfigError: there is no such expert.
    """
    known = {f"{layer}:{expert}": ExpertId(layer, expert) for layer, expert in view.experts()}
    known |= {full_name(view, expert): expert for expert in view.experts()}
    wanted = list(dict.fromkeys(names))
    if wrong := [name for name in wanted if name not in known]:
        last = ExpertId(len(view.layers) - 1, view.layers[-1].num_experts - 1)
        raise ConfigError(
            f"{wrong[0]!r} is no expert of this model; name one as LAYER:EXPERT, 0:0 to "
            f"{last.layer}:{last.expert} (layers with experts are counted from 0), or in full, "
            f"{full_name(view, ExpertId(0, 0))} to {full_name(view, last)}"
        )
    return tuple(dict.fromkeys(known[name] for name in wanted))


def require_siblings(view: ExpertView, experts: Collection[ExpertId]) -> None:
    """See that every layer keeps an expert when these are taken away.

    Raises:
        AuditError: one does not.
    """
    for at, layer in enumerate(view.layers):
        if sum(expert.layer == at for expert in experts) == layer.num_experts:
            raise AuditError(
                f"no expert of {view.names[at]} would be left; name fewer, or give the model up"
            )


def full_name(view: ExpertView, expert: ExpertId) -> str:
    """Path of an expert in its model, as findings have it."""
    return f"{view.names[expert.layer]}.experts.{expert.expert}"
