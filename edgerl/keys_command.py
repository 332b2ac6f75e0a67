"""`edgerl keys`: who may sign what in a fleet."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

keys_app = typer.Typer(help="The keys that sign what boards act on.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of keys.")]
Days = Annotated[float, typer.Option(min=0.001, help="Days for which the keyring is valid.")]

_YEAR_DAYS = 365.0
_NEXT = "Boards learn of it with the learner's next message: give the learner this keyring, and start it again."


@keys_app.command("init")
def init(
    folder: Folder,
    fleet: Annotated[str, typer.Option(help="Name of the fleet.")] = "demo",
    days: Days = _YEAR_DAYS,
) -> None:
    """Make a fleet's root, learner and manager keys, and the keyring in which the root names the others.

    Example: `edgerl keys init keys`, then `edgerl act --root-key keys/root.pub` and
    `edgerl learn --key keys/learner.key --keyring keys/keyring`
    """
    from edgerl.key_folder import KeyFolder  # noqa: PLC0415

    KeyFolder(folder).init(fleet=fleet, days=days)
    _say(f"{folder}: root.pub goes to every board; learner.key and keyring to the learner; keep root.key offline")


@keys_app.command("rotate")
def rotate(
    role: Annotated[Literal["learner", "manager"], typer.Argument(help="Whose key.")],
    folder: Folder,
    days: Days = _YEAR_DAYS,
) -> None:
    """Replace a key by a new one. Was the old one stolen, revoke it too.

    Example: `edgerl keys rotate learner keys`
    """
    from edgerl.key_folder import KeyFolder  # noqa: PLC0415

    _say(f"the new {role} key is {KeyFolder(folder).rotate(role, days=days)}. {_NEXT}")


@keys_app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEYID", help="The key's id, from `edgerl keys show DIR`.")],
    folder: Folder,
    days: Days = _YEAR_DAYS,
) -> None:
    """Take a stolen or lost key back, for ever.

    Example: `edgerl keys revoke 0123456789abcdef keys`
    """
    from edgerl.key_folder import KeyFolder  # noqa: PLC0415

    KeyFolder(folder).revoke(key_id, days=days)
    _say(
        f"key {key_id} is revoked; was it the learner's, `edgerl keys rotate learner {folder}` makes a new one. {_NEXT}"
    )


@keys_app.command("renew")
def renew(folder: Folder, days: Days = _YEAR_DAYS) -> None:
    """Sign the keyring anew before it expires; the keys stay.

    Example: `edgerl keys renew keys`
    """
    from edgerl.key_folder import KeyFolder  # noqa: PLC0415

    KeyFolder(folder).renew(days=days)
    _say(f"the keyring is valid for {days:g} days. {_NEXT}")


@keys_app.command("show")
def show(
    folder: Folder,
    output: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print.")] = "table",
) -> None:
    """Show whose keys are valid, until when, and which are revoked; nothing private."""
    from edgerl.key_folder import KeyFolder  # noqa: PLC0415

    rows = KeyFolder(folder).rows()
    if output == "json":
        print(json.dumps(rows, indent=2))  # noqa: T201
        return
    table = Table(*(name.replace("_", " ") for name in rows[0]))
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    Console().print(table)


def _say(sentence: str) -> None:
    print(sentence)  # noqa: T201
