"""The pickle gate: walk every opcode, execute none, permit only what plain tensors need."""

from __future__ import annotations

import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from dataclasses import dataclass

from badexpert.loading.allowlist import ALLOWED_GLOBALS, ALLOWED_OPCODES

IMPORTABLE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
"""What a dotted name must look like to be importable at all."""


@dataclass(frozen=True)
class PickleScan:
    """What one pickle would do.

    Attributes:
        imports: dotted names it would import, in order, as Python 3 names.
        opcodes: names of the opcodes it uses.
        end: offset just behind its STOP, or None when it is broken.
        problem: why it is broken; empty when it is not.
    """

    imports: tuple[str, ...]
    opcodes: frozenset[str]
    end: int | None
    problem: str = ""

    @property
    def refused_imports(self) -> tuple[str, ...]:
        """Imports outside the allowlist, each once, in order."""
        return tuple(dict.fromkeys(name for name in self.imports if name not in ALLOWED_GLOBALS))

    @property
    def refused_opcodes(self) -> tuple[str, ...]:
        """Opcodes that the restricted unpickler would not execute, sorted."""
        return tuple(sorted(self.opcodes - ALLOWED_OPCODES))


def scan_pickle(data: bytes) -> PickleScan:
    """Walk the first pickle in ``data`` without executing it; a broken one is walked to the break.

    What stands before the break matters: a real unpickler executes it before it notices.
    """
    walker = _Walker()
    try:
        for opcode, argument, position in pickletools.genops(data):
            walker.step(opcode.name, argument)
            if opcode.name == "STOP" and position is not None:
                return walker.result(end=position + 1)
    except (ValueError, UnicodeDecodeError, OverflowError, IndexError) as error:
        return walker.result(problem=str(error))
    return walker.result(problem="it has no end")


def scan_chain(data: bytes, limit: int) -> Iterator[tuple[int, PickleScan]]:
    """Scan pickles that stand one behind the other: (offset, scan), at most ``limit`` of them."""
    offset = 0
    for _ in range(limit):
        found = scan_pickle(data[offset:])
        yield offset, found
        if found.end is None or offset + found.end >= len(data):
            return
        offset += found.end


def objections(data: bytes) -> list[str]:
    """Why the bytes may not be unpickled: every pickle in them, and anything behind the first.

    Returns:
        One sentence each; empty for one whole pickle of plain tensors and containers.
    """
    found: list[str] = []
    for offset, scan in scan_chain(data, limit=8):
        if offset:
            found.append(f"a second pickle hides behind the first, at byte {offset}")
        found += objections_to(scan)
        if scan.end is None:
            break
    return found


def objections_to(scan: PickleScan) -> list[str]:
    """Why one scanned pickle may not be loaded."""
    found = []
    if scan.refused_imports:
        found.append(f"it imports {_listed(scan.refused_imports)}")
    if scan.refused_opcodes:
        found.append(
            f"it uses the pickle instruction {_listed(scan.refused_opcodes)}, "
            "which plain tensors do not need"
        )
    if scan.problem:
        found.append(f"it is broken: {scan.problem}")
    return found


def hidden_imports(data: bytes) -> tuple[str, ...]:
    """Refused imports of a pickle posing as something else, such as the bytes of a tensor.

    Only names that could be imported count, so that random bytes are not accused.
    """
    names = scan_pickle(data).refused_imports
    return tuple(name for name in names if IMPORTABLE.fullmatch(name))


def _listed(names: tuple[str, ...], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


class _Walker:
    """Follows just enough of the stack to name what STACK_GLOBAL would import."""

    def __init__(self) -> None:
        self.imports: list[str] = []
        self.opcodes: set[str] = set()
        self.strings: list[str] = []
        self.memo: dict[int, str] = {}
        self.pushed_string = False

    def step(self, opcode: str, argument: object) -> None:
        self.opcodes.add(opcode)
        if opcode in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            self.imports.append(python3_name(module, name))
        elif opcode == "STACK_GLOBAL":
            module, name = (["?", "?", *self.strings])[-2:]
            self.imports.append(python3_name(module, name))
        elif opcode.startswith("EXT"):
            self.imports.append(f"copyreg extension {argument}")
        self._follow_strings(opcode, argument)

    def _follow_strings(self, opcode: str, argument: object) -> None:
        if opcode in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            if self.pushed_string:
                slot = argument if isinstance(argument, int) else len(self.memo)
                self.memo[slot] = self.strings[-1]
            elif opcode == "MEMOIZE":
                self.memo[len(self.memo)] = "?"
            return
        if opcode in ("GET", "BINGET", "LONG_BINGET") and isinstance(argument, int):
            argument = self.memo.get(argument)
        self.pushed_string = isinstance(argument, str) and opcode not in ("GLOBAL", "INST")
        if self.pushed_string:
            self.strings.append(str(argument))

    def result(self, *, end: int | None = None, problem: str = "") -> PickleScan:
        return PickleScan(tuple(self.imports), frozenset(self.opcodes), end, problem)


def python3_name(module: str, name: str) -> str:
    """The dotted name under which today's Python knows what an old pickle imports."""
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[(module, name)]
    elif module in IMPORT_MAPPING:
        module = IMPORT_MAPPING[module]
    return f"{module}.{name}"
