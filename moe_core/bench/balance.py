"""Balance with and without an auxiliary loss, on one language model: MaxVio and validation loss.

``python -m moe_core.bench.balance --text FILE --out FILE``
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from moe_core.bench.program import run
from moe_core.bench.small_lm import arguments, trained
from moe_core.bench.timing import write
from moe_core.lm.config import Option

VARIANTS: dict[str, tuple[str, dict[str, Option]]] = {
    "none": ("sigmoid", {"normalised": False}),
    "auxiliary 0.001": ("sigmoid", {"normalised": False, "balance_coef": 0.001}),
    "auxiliary 0.01": ("sigmoid", {"normalised": False, "balance_coef": 0.01}),
    "loss-free 0.001": ("loss-free", {"update_rate": 0.001}),
    "loss-free 0.003": ("loss-free", {"update_rate": 0.003}),
}
"""All have the same sigmoid gate, which is not renormalised."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    given = arguments("balance", __doc__).parse_args(argv)
    rows = {}
    for name, (router, options) in VARIANTS.items():
        last = [
            trained(given, router, options, seed=seed)[1].validations[-1]
            for seed in range(given.seeds)
        ]
        rows[name] = {
            "loss": statistics.mean(validation.loss for validation in last),
            "max_violation": statistics.mean(
                statistics.mean(validation.max_violation) for validation in last
            ),
            "losses": [validation.loss for validation in last],
            "max_violations_by_layer": [validation.max_violation for validation in last],
        }
    given.text = given.text.name
    write(given, {"balance": rows})
    print("                 validation loss  MaxVio")
    for name, row in rows.items():
        print(f"{name:<17}{row['loss']:>15.4f}{row['max_violation']:>8.3f}")


if __name__ == "__main__":
    run(main)
