"""`edgerl keys`: who may sign what in a fleet."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from fleet_manager.key_folder import KeyFolder

keys_app = typer.Typer(help="The keys that sign what boards act on.", no_args_is_help=True)

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A folder of keys, or a fleet's, which `edgerl broker init` has made.")
]
Days = Annotated[float, typer.Option(min=0.001, help="Days for which the keyring is valid.")]

_YEAR_DAYS = 365.0
_NEXT = "Boards learn of it with the learner's next message: put the new keyring (and key) where the learner's are."


@keys_app.command("init")
def init(
    folder: Folder,
    fleet: Annotated[str, typer.Option(help="Name of the fleet.")] = "demo",
    days: Days = _YEAR_DAYS,
) -> None:
    """Make a fleet's root, learner and manager keys, and the keyring in which the root names the others.

    Example: `edgerl keys init keys`, then `edgerl act --root-key keys/root.pub` and
    `edgerl learn --signing-key keys/learner.key --keyring keys/keyring`
    """
    from fleet_manager.key_folder import KeyFolder  # noqa: PLC0415

    KeyFolder(folder).init(fleet=fleet, days=days)
    _say(f"{folder}: root.pub goes to every board; learner.key and keyring to the learner; keep root.key offline")


@keys_app.command("rotate")
def rotate(
    role: Annotated[Literal["learner", "manager", "root"], typer.Argument(help="Whose key.")],
    folder: Folder,
    days: Days = _YEAR_DAYS,
) -> None:
    """Replace a key by a new one. Was the old one stolen, revoke it too; an old root is worth nothing at once.

    Example: `edgerl keys rotate learner keys`
    """
    with _changing(folder) as keys:
        new = keys.rotate_root(days=days) if role == "root" else keys.rotate(role, days=days)
    follow = " Boards that hold the old root.pub follow; new boards get the new one." if role == "root" else ""
    _say(f"the new {role} key is {new}.{follow} {_NEXT}")


@keys_app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEYID", help="The key's id, from `edgerl keys show DIR`.")],
    folder: Folder,
    days: Days = _YEAR_DAYS,
) -> None:
    """Take a stolen or lost key back, for ever.

    Example: `edgerl keys revoke 0123456789abcdef keys`
    """
    with _changing(folder) as keys:
        keys.revoke(key_id, days=days)
    _say(
        f"key {key_id} is revoked; was it the learner's, `edgerl keys rotate learner {folder}` makes a new one. {_NEXT}"
    )


@keys_app.command("renew")
def renew(folder: Folder, days: Days = _YEAR_DAYS) -> None:
    """Sign the keyring anew before it expires; the keys stay.

    Example: `edgerl keys renew keys`
    """
    with _changing(folder) as keys:
        keys.renew(days=days)
    _say(f"the keyring is valid for {days:g} days. {_NEXT}")


@keys_app.command("show")
def show(
    folder: Folder,
    output: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print.")] = "table",
) -> None:
    """Show whose keys are valid, until when, and which are revoked; nothing private."""
    from fleet_manager.key_folder import KeyFolder  # noqa: PLC0415

    rows = KeyFolder(_keys_of(folder)).rows()
    if output == "json":
        print(json.dumps(rows, indent=2))  # noqa: T201
        return
    table = Table(*(name.replace("_", " ") for name in rows[0]))
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    Console().print(table)


@contextmanager
def _changing(folder: Path) -> Iterator["KeyFolder"]:
    """The keys of a folder; where it is a fleet's, its programs and boards get what has changed."""
    from fleet_manager.fleet_folder import FleetFolder  # noqa: PLC0415
    from fleet_manager.key_folder import KeyFolder  # noqa: PLC0415

    if _keys_of(folder) == folder:
        yield KeyFolder(folder)
        return
    fleet = FleetFolder(folder)
    yield fleet.keys
    fleet.hand_out_keys()


def _keys_of(folder: Path) -> Path:
    return folder / "keys" if (folder / "authority").is_dir() else folder


def _say(sentence: str) -> None:
    print(sentence)  # noqa: T201
