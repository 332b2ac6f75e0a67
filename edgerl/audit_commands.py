"""`edgerl audit`: what was done to a fleet, by whom, and whether the record of it is whole."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fleet_protocol.exit_codes import ExitCode, ProgramError

audit_app = typer.Typer(help="What was done to a fleet, and by whom.", no_args_is_help=True)

FleetDirectory = Annotated[Path, typer.Option("--dir", help="The folder that `edgerl broker init` has made.")]
Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--db",
        help="An audit file; may be given again.",
        show_default="authority/audit.db and manager/audit.db in --dir",
    ),
]
OutputFormat = Annotated[Literal["table", "json"], typer.Option("--format", help="How to print.")]

_OF_A_FLEET = ("authority/audit.db", "manager/audit.db")
_WIDTH_OF_A_FILE = 200


@audit_app.command("show")
def show(directory: FleetDirectory = Path("fleet"), db: Files = None, output: OutputFormat = "table") -> None:
    """Show enrolments, renewals, revocations, refusals and commands, the oldest first."""
    from fleet_protocol.audit import AuditLog  # noqa: PLC0415

    rows: list[dict[str, Any]] = [
        {"at": entry.at, "kind": entry.kind, **json.loads(entry.details), "id": entry.id, "log": str(file)}
        for file in _files(directory, db)
        for entry in AuditLog(file).entries()
    ]
    rows.sort(key=lambda row: row["at"])
    if output == "json":
        print(json.dumps(rows, indent=2))  # noqa: T201
        return
    table = Table("at", "kind", "details")
    for row in rows:
        details = " ".join(f"{name}={value}" for name, value in row.items() if name not in ("at", "kind", "id", "log"))
        table.add_row(row["at"], row["kind"], escape(details))
    console = Console()
    (console if console.is_terminal else Console(width=_WIDTH_OF_A_FILE)).print(table)


@audit_app.command("verify")
def verify(
    directory: FleetDirectory = Path("fleet"),
    db: Files = None,
    head: Annotated[
        str, typer.Option(help="A hash that this command has printed earlier: it must still be there.")
    ] = "",
) -> None:
    """Check that no entry was changed, removed or reordered; print the last hash, to be noted elsewhere.

    Exit code 23 where something is wrong.
    """
    from fleet_protocol.audit import AuditLog  # noqa: PLC0415

    files = _files(directory, db)
    if head and len(files) > 1:
        raise ProgramError(ExitCode.USAGE, "--head is of one log: say which with --db")
    wrong: list[str] = []
    for file in files:
        log = AuditLog(file)
        faults = log.verify(head=head)
        wrong += [f"{file}: {fault}" for fault in faults]
        entries = log.entries()
        if not faults:
            print(f"{file}: {len(entries)} entries, whole; head {entries[-1].hash if entries else '-'}")  # noqa: T201
    if wrong:
        raise ProgramError(ExitCode.AUDIT_BROKEN, "; ".join(wrong))


def _files(directory: Path, given: list[Path] | None) -> list[Path]:
    files = given or [directory / name for name in _OF_A_FLEET if (directory / name).exists()]
    if not files:
        raise ProgramError(
            ExitCode.STATE_UNUSABLE, f"no audit log in {directory}; --dir or --db says where there is one"
        )
    return files
