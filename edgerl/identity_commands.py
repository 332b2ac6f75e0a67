"""`edgerl broker init|renew|revoke` and `edgerl enroll`: who belongs to a fleet."""

from pathlib import Path
from typing import Annotated

import typer

FleetDirectory = Annotated[Path, typer.Option("--dir", help="The folder that `edgerl broker init` has made.")]

_RELOAD = (
    "Have mosquitto read its files again: kill -HUP $(cat {broker}/mosquitto.pid); if it runs on another machine, copy "
    "{broker} there first."
)


def add_identity_commands(app: typer.Typer, broker_app: typer.Typer) -> None:
    """Hang the commands into the command line."""
    broker_app.command("init")(_init)
    broker_app.command("renew")(_renew)
    broker_app.command("revoke")(_revoke)
    app.command("enroll")(_enroll)


def _init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")],
    host: Annotated[
        list[str], typer.Option(help="Name or address by which programs reach the broker; may be given again.")
    ],
    fleet: Annotated[str, typer.Option(help="Name of the fleet.")] = "demo",
    port: Annotated[
        int, typer.Option(min=1, max=65_535, envvar="EDGERL_BROKER_PORT", help="Port of the broker.")
    ] = 8883,
    force: Annotated[bool, typer.Option("--force", help="Replace a CA that is there.")] = False,  # noqa: FBT002 - typer
) -> None:
    """Make a fleet's CA, a hardened mosquitto configuration, and credentials of learner, manager and monitor.

    Example: `edgerl broker init fleet --host broker.local --host 192.168.1.10`
    """
    from fleet_manager.fleet_folder import FleetFolder  # noqa: PLC0415

    folder = FleetFolder.create(directory, fleet=fleet, hosts=host, port=port, force=force)
    typer.echo(
        f"{directory} holds the fleet {fleet}. Keep {directory / 'authority'} to yourself: whoever has it can be "
        f"everybody.\nStart the broker: mosquitto -c {folder.broker / 'mosquitto.conf'}\n"
        f"Then enroll boards: edgerl enroll BOARD --dir {directory}"
    )


def _enroll(
    board: Annotated[str, typer.Argument(help="The board's id.")], directory: FleetDirectory = Path("fleet")
) -> None:
    """Make a board's key and certificate: a folder to copy to the board."""
    from fleet_manager.fleet_folder import FleetFolder  # noqa: PLC0415

    folder = FleetFolder(directory).enroll(board)
    typer.echo(
        f"Copy {folder} to the board, by a way that nobody reads, and start it there:\n"
        f"edgerl act -c {folder.name}/edgerl.toml"
    )


def _renew(
    name: Annotated[str, typer.Argument(help="`broker`, learner, manager, monitor, or a board's id.")],
    directory: FleetDirectory = Path("fleet"),
) -> None:
    """Make a new key and certificate. Old ones stay valid: `edgerl broker revoke` first, if they were stolen."""
    from fleet_manager.fleet_folder import FleetFolder  # noqa: PLC0415

    fleet_folder = FleetFolder(directory)
    folder = fleet_folder.renew(name)
    typer.echo(f"{folder} has new credentials: copy it to its machine.\n{_RELOAD.format(broker=fleet_folder.broker)}")


def _revoke(
    name: Annotated[str, typer.Argument(help="A board's id, or learner, manager, monitor.")],
    directory: FleetDirectory = Path("fleet"),
) -> None:
    """Revoke all certificates of a board or a program: the broker lets it in no more."""
    from fleet_manager.fleet_folder import FleetFolder  # noqa: PLC0415

    fleet_folder = FleetFolder(directory)
    number = fleet_folder.revoke(name)
    typer.echo(
        f"{number} certificate{'' if number == 1 else 's'} of {name} revoked.\n"
        f"{_RELOAD.format(broker=fleet_folder.broker)} Only then is {name} kept out."
    )
