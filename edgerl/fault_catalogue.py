"""The faults that EdgeRL is to survive: `docs/faults.md` is the catalogue, and `tests/chaos` its proof.

A test belongs to the fault whose id is in its name: `test_F17_...`.
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NOT_YET: Final = "not yet"
"""Stands in the catalogue where no test is."""

_ROW: Final = re.compile(r"^\| (F\d+) \|(.+)\|$", re.MULTILINE)
_TEST: Final = re.compile(r"test_(F\d+)_")


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the catalogue.

    Attributes:
        id: F1 to F42.
        what: What happens.
        expected: What must follow.
        tests: The files in tests/chaos that prove it, or `not yet`.
        means: How the fault is made, and what is left out.
    """

    id: str
    what: str
    expected: str
    tests: str
    means: str


def read_catalogue(root: Path) -> list[Fault]:
    """Read the catalogue of a source checkout, in its order."""
    text = (root / "docs/faults.md").read_text(encoding="utf-8")
    rows = ([cell.strip() for cell in row.split("|")] for _, row in _ROW.findall(text))
    ids = [fault_id for fault_id, _ in _ROW.findall(text)]
    return [Fault(fault_id, *cells) for fault_id, cells in zip(ids, rows, strict=True)]


def read_tests(root: Path) -> dict[str, list[str]]:
    """Find the tests of each fault, as `file::name`; faults without a test are left out."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / "tests/chaos").glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            fault_id = fault_of(node.name) if isinstance(node, ast.FunctionDef) else None
            if isinstance(node, ast.FunctionDef) and fault_id is not None:
                found.setdefault(fault_id, []).append(f"{path.name}::{node.name}")
    return found


def fault_of(test_name: str) -> str | None:
    """The fault that a test is about; None for a test of something else."""
    match = _TEST.match(test_name)
    return match[1] if match else None


def number_of(fault_id: str) -> int:
    """17 of F17, to sort by."""
    return int(fault_id[1:])
