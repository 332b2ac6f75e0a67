"""`edgerl broker init|renew|revoke`, `edgerl enroll` and `edgerl depot`: who belongs to a fleet."""

from pathlib import Path
from typing import Annotated

import typer

FleetDirectory = Annotated[Path, typer.Option("--dir", help="The folder that `edgerl broker init` has made.")]

_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

_RELOAD = (
    "Have mosquitto read its files again: kill -HUP $(cat {broker}/mosquitto.pid); if it runs on another machine, copy "
    "{broker} there first."
)


def add_identity_commands(app: typer.Typer, broker_app: typer.Typer) -> None:
    """Hang the commands into the command line."""
    broker_app.command("init")(_init)
    broker_app.command("renew")(_renew)
    broker_app.command("revoke")(_revoke)
    app.command("enroll", context_settings=_PASSED_ON)(_enroll)
    depot_app = typer.Typer(help="Where boards get their certificates.", no_args_is_help=True)
    depot_app.command("run")(_depot_run)
    app.add_typer(depot_app, name="depot")


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


def _enroll(context: typer.Context) -> None:
    """Enrol a board: `BOARD` makes a folder to copy, `BOARD --token` a token; there, `--depot URL --token TOKEN`."""
    if any(argument.partition("=")[0] == "--depot" for argument in context.args):
        from edge_actor.enrol import main as enroll_here  # noqa: PLC0415

        raise typer.Exit(enroll_here(context.args))
    from edgerl.enroll_command import main as enroll_board  # noqa: PLC0415

    raise typer.Exit(enroll_board(context.args))


def _depot_run(
    directory: FleetDirectory = Path("fleet"),
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or address by which boards reach the depot; may be given again.", show_default="as the broker"
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65_535, envvar="EDGERL_DEPOT_PORT", help="Port of the depot.")] = 8443,
    bind: Annotated[str, typer.Option(help="Address to listen at.")] = "0.0.0.0",  # noqa: S104 - it is for boards
) -> None:
    """Give boards with a token their certificates, over HTTPS, until Ctrl-C. It needs the CA: run it where that lies.

    Example: `edgerl depot run --dir fleet`, then `edgerl enroll kitchen-1 --token`
    """
    from edgerl.depot_command import run  # noqa: PLC0415

    run(directory, hosts=host or [], bind=bind, port=port)


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
    from fleet_manager.enrolment import Enrolment  # noqa: PLC0415
    from fleet_manager.fleet_folder import FleetFolder  # noqa: PLC0415

    fleet_folder = FleetFolder(directory)
    number = Enrolment(directory).revoke(name)
    typer.echo(
        f"{number} certificate{'' if number == 1 else 's'} of {name} revoked.\n"
        f"{_RELOAD.format(broker=fleet_folder.broker)} Only then is {name} kept out."
    )
