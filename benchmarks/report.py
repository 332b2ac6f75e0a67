"""What every benchmark shares: its arguments, the machine it ran on, its table and its JSON.

A benchmark answers one question. It calls `parse_arguments(__doc__)`, measures rows, compares them with its goals
as `Claim`s, and ends with `finish`, which prints everything and writes the file:

    {"schema": 1, "quick": false, "machine": {}, "versions": {}, "rows": [],
     "claims": [{"claim": "...", "value": 1.2, "goal": "<= 3", "holds": true}]}
"""

import argparse
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple, Self

SCHEMA = 1

Row = Mapping[str, str | float | None]


class Claim(NamedTuple):
    """A number with the goal it was measured for."""

    claim: str
    value: float
    goal: str
    holds: bool

    @classmethod
    def at_most(cls, claim: str, value: float, limit: float) -> Self:
        """Claim that a value is no larger than a limit."""
        return cls(claim, value, f"<= {limit:g}", value <= limit)

    @classmethod
    def at_least(cls, claim: str, value: float, limit: float) -> Self:
        """Claim that a value is no smaller than a limit."""
        return cls(claim, value, f">= {limit:g}", value >= limit)


def parse_arguments(doc: str | None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read a benchmark's command line.

    Args:
        doc: the benchmark's docstring, whose first line is its question.
        arguments: what to read instead of the process's own arguments.

    Returns:
        `quick` (bool) and `json` (`Path` or None).
    """
    return argument_parser(doc).parse_args(arguments)


def argument_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return the parser of `parse_arguments`, for a benchmark with a flag of its own."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the same question with fewer repeats")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    return parser


def machine() -> dict[str, str | int]:
    """Describe what the numbers depend on: processor, cores this process may use, system and Python."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def versions(*packages: str) -> dict[str, str]:
    """Return the version of each distribution, or `missing`."""
    return {package: _version(package) for package in packages}


def print_table(rows: Sequence[Row]) -> None:
    """Print rows under the keys of the first; numbers with three decimals at most, to the right."""
    if not rows:
        return
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    is_number = [not isinstance(value, str) for value in rows[0].values()]
    for line in cells:
        aligned = zip(line, widths, is_number, strict=True)
        print("  ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in aligned).rstrip())


def write(path: Path, rows: Sequence[Row], claims: Sequence[Claim], *, packages: Sequence[str], quick: bool) -> None:
    """Write the result as JSON."""
    result = {
        "schema": SCHEMA,
        "quick": quick,
        "machine": machine(),
        "versions": versions(*packages),
        "rows": [dict(row) for row in rows],
        # JSON has no infinity: a target that was never reached is null, and its claim does not hold.
        "claims": [
            claim._asdict() | {"value": claim.value if math.isfinite(claim.value) else None} for claim in claims
        ],
    }
    path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def finish(
    arguments: argparse.Namespace, rows: Sequence[Row], claims: Sequence[Claim], *, packages: Sequence[str]
) -> None:
    """Print machine, versions, rows and claims; write them too where the command line asks for it.

    Args:
        arguments: what `parse_arguments` gave.
        rows: the measurements, all with the same keys.
        claims: the goals and whether they hold.
        packages: distributions whose versions the numbers depend on.
    """
    described = {**machine(), **versions(*packages)}
    print(", ".join(f"{name} {value}" for name, value in described.items()))
    if arguments.quick:
        print("quick: fewer repeats, so the tails are rough")
    print()
    print_table(rows)
    print()
    for claim in claims:
        print(f"{'holds' if claim.holds else 'FAILS'}: {claim.claim} = {claim.value:.4g}, goal {claim.goal}")
    if arguments.json is not None:
        write(arguments.json, rows, claims, packages=packages, quick=arguments.quick)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return models[0] if models else platform.processor() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _cell(value: str | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)
