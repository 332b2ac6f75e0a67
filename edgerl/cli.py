"""The `edgerl` command. Thin: it parses, calls the program that does the work, and prints.

Programs are imported inside their commands, so that `edgerl --help` is quick and a board needs no torch.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgerl.audit_commands import audit_app
from edgerl.bench_command import bench
from edgerl.chaos_command import chaos
from edgerl.command_command import command
from edgerl.compress_command import compress
from edgerl.convert_command import convert
from edgerl.identity_commands import add_identity_commands
from edgerl.keys_command import keys_app
from fleet_protocol.exit_codes import EXPLANATIONS, ExitCode, ProgramError

app = typer.Typer(
    name="edgerl",
    help="Reinforcement learning on edge devices: boards act with int8 policies, a learner trains them over MQTT.\n\n"
    "Try it at once: `edgerl demo`. By hand, in three shells: `edgerl broker run`, `edgerl learn`, `edgerl act`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
broker_app = typer.Typer(help="The MQTT broker between learner and boards.", no_args_is_help=True)
fleet_app = typer.Typer(help="Look at the boards of a fleet.", no_args_is_help=True)
config_app = typer.Typer(help="What is configured, and from where.", no_args_is_help=True)
app.add_typer(broker_app, name="broker")
app.add_typer(fleet_app, name="fleet")
app.add_typer(config_app, name="config")
app.add_typer(audit_app, name="audit")
app.command("command")(command)
add_identity_commands(app, broker_app)
app.add_typer(keys_app, name="keys")
app.command()(chaos)
app.command()(compress)
app.command()(bench)
app.command()(convert)

Format = Literal["table", "json"]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="TOML file with [board], [learner], ... tables.")
]
Broker = Annotated[str | None, typer.Option(help="MQTT broker, HOST or HOST:PORT.", show_default="127.0.0.1:1883")]
Fleet = Annotated[str | None, typer.Option(help="Name of the fleet.", show_default="demo")]
Database = Annotated[Path, typer.Option("--db", help="The monitor's SQLite file.")]
OutputFormat = Annotated[Format, typer.Option("--format", help="How to print.")]

_WIDTH_OF_A_FILE = 200


@app.command()
def demo(
    env: Annotated[
        str | None,
        typer.Option(
            help="Environment that the boards learn: Gymnasium's name, or module:Class.", show_default="CartPole-v1"
        ),
    ] = None,
    target_return: Annotated[
        float | None,
        typer.Option(help="End when the mean return of 100 episodes reaches this.", show_default="475 for CartPole-v1"),
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds of learning after which to give up.", show_default="300")
    ] = None,
    boards: Annotated[int, typer.Option(min=1, help="Board agents to start, each a process with its workers.")] = 2,
    copies: Annotated[int | None, typer.Option(min=1, help="Environments per board.", show_default="16")] = None,
    report: Annotated[Path, typer.Option(help="Where to write the report (JSON).")] = Path("report.json"),
    broker_kind: Annotated[Literal["auto", "mosquitto", "amqtt"], typer.Option(help="Which broker to start.")] = "auto",
    db: Annotated[Path | None, typer.Option(help="Keep the monitor's SQLite file here.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of networks and boards; 0 = boards from the system.")] = 0,
    allow_env: Annotated[
        list[str] | None, typer.Option(help="Let boards run environments of this module, beside Gymnasium's own.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Run the whole loop on this machine: broker, learner and boards learn a task, live, and end with a report.

    Exit code 0 when the target was reached, 7 when it was not (the report is written all the same).

    Example: `edgerl demo --env Acrobot-v1 --target-return -100`, or `edgerl demo -c examples/catch.toml`
    """
    from edgerl.demo import plan_demo, run_demo  # noqa: PLC0415

    plan = plan_demo(
        {"env_id": env, "target_return": target_return, "time_limit_s": time_limit, "copies": copies},
        boards=boards,
        report=report,
        broker_kind=broker_kind,
        database=db,
        seed=seed,
        allowed_environments=allow_env or [],
        config=config,
    )
    raise typer.Exit(run_demo(plan, Console()))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def learn(context: typer.Context) -> None:
    """Lead a run: tell the boards what to do, learn from what they send, publish policies. `-c FILE`, Ctrl-C saves."""
    from cloud_learner.__main__ import main as learn_main  # noqa: PLC0415

    raise typer.Exit(learn_main(context.args))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def act(context: typer.Context) -> None:
    """Act on this board: needs only `--broker HOST`. The same as `python -m edge_actor`."""
    from edge_actor.__main__ import main as act_main  # noqa: PLC0415

    raise typer.Exit(act_main(context.args))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def monitor(context: typer.Context) -> None:
    """Record what every board reports in a SQLite file, for `edgerl fleet`."""
    from fleet_monitor.__main__ import main as monitor_main  # noqa: PLC0415

    raise typer.Exit(monitor_main(context.args))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def doctor(context: typer.Context) -> None:
    """Check that this machine can do its part, and say what to do where it cannot. `doctor env NAME` tries a task."""
    from edgerl.doctor.__main__ import main as doctor_main  # noqa: PLC0415

    raise typer.Exit(doctor_main(context.args))


@broker_app.command("run")
def broker_run(
    port: Annotated[
        int, typer.Option(min=1, max=65_535, envvar="EDGERL_BROKER_PORT", help="Port on 127.0.0.1.")
    ] = 1883,
    kind: Annotated[
        Literal["auto", "mosquitto", "amqtt"],
        typer.Option(help="auto = mosquitto where it is installed, else the embedded amqtt."),
    ] = "auto",
) -> None:
    """Run a broker on this machine's loopback until Ctrl-C."""
    from edgerl.broker import run_broker  # noqa: PLC0415

    _log_warnings()
    run_broker(port, kind=kind)


@fleet_app.command("list")
def fleet_list(db: Database = Path("fleet.db"), output: OutputFormat = "table") -> None:
    """List the boards that the monitor has recorded, and what is wrong with them."""
    from fleet_monitor.description import list_row  # noqa: PLC0415
    from fleet_monitor.listing import list_boards  # noqa: PLC0415

    boards = list_boards(db)
    _print_rows("Boards", msgspec.to_builtins(boards) if output == "json" else [*map(list_row, boards)], output)


@fleet_app.command("show")
def fleet_show(board: str, db: Database = Path("fleet.db"), output: OutputFormat = "table") -> None:
    """Show one board: what it does and how it is, and its latencies and health over time."""
    from fleet_monitor.description import describe, health_row, latency_row  # noqa: PLC0415
    from fleet_monitor.listing import show_board  # noqa: PLC0415

    detail = show_board(db, board)
    if output == "json":
        print(json.dumps(msgspec.to_builtins(detail), indent=2))  # noqa: T201
        return
    for sentence in describe(detail.board):
        _console().print(escape(sentence), soft_wrap=True)
    _print_rows("Latencies, newest first", [*map(latency_row, detail.latencies)], output)
    _print_rows("Health, newest first", [*map(health_row, detail.health)], output)


@config_app.command("show")
def config_show(
    table: Annotated[Literal["learner", "board"], typer.Argument(help="Which program's settings.")] = "learner",
    config: ConfigFile = None,
    output: OutputFormat = "table",
) -> None:
    """Print the settings in force: defaults < file < EDGERL_* variables."""
    from cloud_learner.config import LearnerSettings  # noqa: PLC0415
    from edge_actor.config import BoardSettings  # noqa: PLC0415
    from fleet_protocol.settings import load_settings  # noqa: PLC0415

    settings_type: type[msgspec.Struct] = LearnerSettings if table == "learner" else BoardSettings
    settings = msgspec.to_builtins(load_settings(settings_type, table, file=config))
    rows = [{"setting": name, "value": json.dumps(value)} for name, value in settings.items()]
    _print_rows(f"[{table}]", settings if output == "json" else rows, output)


@app.command("help")
def explain(code: Annotated[int, typer.Argument(help="An exit code.")]) -> None:
    """Explain an exit code."""
    if code not in set(ExitCode):
        raise ProgramError(ExitCode.USAGE, f"no program of ours ends with {code}; known: {[int(c) for c in ExitCode]}")
    known = ExitCode(code)
    Console().print(f"[bold]{code} {known.name}[/bold]  {EXPLANATIONS[known]}")


def main() -> NoReturn:
    """Run the command line; what a person can put right is one line, not a traceback."""
    try:
        app()
    except ProgramError as error:
        print(f"edgerl: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    sys.exit(0)


def _log_warnings() -> None:
    # Not for all commands: learn, act and monitor say more, and only the first call of basicConfig counts.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")


def _console() -> Console:
    """A terminal's own width; what goes into a file or a pipe is not folded at 80 characters."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE)


def _print_rows(title: str, rows: Any, output: Format) -> None:  # noqa: ANN401 - JSON
    if output == "json":
        print(json.dumps(rows, indent=2))  # noqa: T201
        return
    if not rows:
        _console().print(f"{title}: none recorded yet")
        return
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(rows[0]):
        table.add_column(str(name).replace("_", " "), no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    _console().print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    # What boards say of themselves is text, never markup.
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
