"""`edgerl chaos`: break a real fleet in every way of the catalogue, and say what it survived.

The scenarios are tests of the source checkout (`tests/chaos`): this starts pytest with a selection of them, as
`make chaos` does, and reads what the selection has written.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Console
from rich.table import Table

from edgerl.fault_catalogue import NOT_YET, read_catalogue, read_tests
from fleet_protocol.exit_codes import ExitCode, ProgramError

_ROOT: Final = Path(__file__).parents[1]
_PYTEST_DONE: Final = (0, 1)
"""Exit codes of pytest after a whole session: all passed, or some did not."""
_PYTEST_NOTHING_SELECTED: Final = 5


def chaos(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Without what takes longest; at most 15 minutes.")] = False,
    only: Annotated[str, typer.Option(help="Only these faults, e.g. F17,F18.")] = "",
    output: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print.")] = "table",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result (JSON) here, too.")] = None,
    catalogue: Annotated[
        bool, typer.Option("--list", help="List the faults and their tests, and run nothing.")
    ] = False,
) -> None:
    """Break a real fleet on this machine in every way of docs/faults.md, and say what it survived.

    Needs a source checkout with its development environment (`make setup`) and mosquitto. Exit code 0 when all
    scenarios that ran have passed, 24 when one has not.

    Example: `edgerl chaos --quick --only F17,F19 --format json`
    """
    _require_checkout(_ROOT)
    if catalogue:
        _print_catalogue(output)
        return
    scenarios = run_scenarios(quick=quick, only=_parse_ids(only), keep=json_file, quiet=output == "json")
    if output == "json":
        print(json.dumps({"schema": 1, "scenarios": scenarios}))  # noqa: T201
    if not all(scenario["passed"] for scenario in scenarios):
        raise typer.Exit(ExitCode.SCENARIO_FAILED)


def run_scenarios(*, quick: bool, only: list[str], keep: Path | None, quiet: bool) -> list[dict[str, Any]]:
    """Run a selection of scenarios.

    Args:
        quick: Leave out what takes long.
        only: Faults to run; empty = all.
        keep: Where the result is written, too.
        quiet: What pytest says goes to standard error, so that standard output stays free.

    Returns:
        For each fault that ran its `id`, whether it `passed`, and the `reason` where it did not.

    Raises:
        ProgramError: A fault has no test (in this selection), or pytest did not come to its end.
    """
    with tempfile.TemporaryDirectory(prefix="edgerl-chaos-") as folder:
        result = Path(folder) / "chaos.json"
        command = [sys.executable, "-m", "pytest", "tests/chaos", "--chaos", "quick" if quick else "full"]
        command += ["--chaos-json", str(result), *(["--scenarios", ",".join(only)] if only else [])]
        status = _run(command, quiet=quiet)
        if status not in (*_PYTEST_DONE, _PYTEST_NOTHING_SELECTED) or not result.exists():
            raise ProgramError(
                ExitCode.SCENARIO_FAILED, f"pytest ended with {status} before all scenarios had run; see what it says"
            )
        text = result.read_text(encoding="utf-8")
    if keep is not None:
        keep.write_text(text, encoding="utf-8")
    scenarios: list[dict[str, Any]] = json.loads(text)["scenarios"]
    missing = [fault for fault in only if fault not in {scenario["id"] for scenario in scenarios}]
    if missing or not scenarios:
        raise ProgramError(
            ExitCode.USAGE,
            f"no test of {', '.join(missing) or 'any fault'} is in this selection"
            + (" (some run only without --quick)" if quick else ""),
        )
    if status != 0 and all(scenario["passed"] for scenario in scenarios):
        raise ProgramError(ExitCode.SCENARIO_FAILED, "a test of the scenarios' own tools has failed; see above")
    return scenarios


def _run(command: list[str], *, quiet: bool) -> int:
    with subprocess.Popen(command, cwd=_ROOT, stdout=sys.stderr.fileno() if quiet else None) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()  # pytest has got it too, and ends its programs
            raise ProgramError(ExitCode.INTERRUPTED, "stopped; what had not run yet is not proved") from None


def _require_checkout(root: Path) -> None:
    if not (root / "tests/chaos").is_dir() or not (root / "docs/faults.md").is_file():
        raise ProgramError(
            ExitCode.DEPENDENCY_MISSING,
            f"the scenarios are tests of the source checkout, and {root} is none: clone the repository, run "
            "`make setup` there, and then `make chaos`",
        )
    if importlib.util.find_spec("pytest") is None:
        raise ProgramError(
            ExitCode.DEPENDENCY_MISSING, "pytest is missing: run `make setup` in the checkout, or install 'edgerl[dev]'"
        )


def _parse_ids(text: str) -> list[str]:
    """Take F17,f18 apart.

    Raises:
        ProgramError: One of them is no fault of the catalogue, or has no test.
    """
    ids = [part.strip().upper() for part in text.split(",") if part.strip()]
    known, tested = {fault.id for fault in read_catalogue(_ROOT)}, read_tests(_ROOT)
    for fault_id in ids:
        if fault_id not in known:
            raise ProgramError(ExitCode.USAGE, f"{fault_id!r} is no fault of the catalogue; `edgerl chaos --list`")
        if fault_id not in tested:
            raise ProgramError(ExitCode.USAGE, f"{fault_id} has no test yet; `edgerl chaos --list` says which have")
    return ids


def _print_catalogue(output: Literal["table", "json"]) -> None:
    tests = read_tests(_ROOT)
    faults = [{"id": fault.id, "what": fault.what, "tests": tests.get(fault.id, [])} for fault in read_catalogue(_ROOT)]
    if output == "json":
        print(json.dumps({"schema": 1, "faults": faults}, indent=2))  # noqa: T201
        return
    table = Table("id", "what happens", "tests", title="Faults", title_justify="left")
    for fault in faults:
        table.add_row(fault["id"], fault["what"], "\n".join(fault["tests"]) or NOT_YET)
    Console(width=None if sys.stdout.isatty() else 200).print(table)
