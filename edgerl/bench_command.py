"""`edgerl bench POLICY --on BOARD`: what a policy would cost a board, measured there before it acts with it."""

import json
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fleet_protocol.commands import LARGEST_MODEL, Bench, BenchResult
from fleet_protocol.exit_codes import ExitCode, ProgramError

_WAIT_S: Final = 160.0


def bench(
    policies: Annotated[
        list[Path], typer.Argument(metavar="POLICY...", help=".tflite files, e.g. of `edgerl compress`.")
    ],
    board: Annotated[str, typer.Option("--on", help="The board's id.")],
    copies: Annotated[int, typer.Option(min=1, max=4096, help="Observations at a time.")] = 1,
    steps: Annotated[int, typer.Option(min=100, max=1_000_000, help="Steps that are timed.")] = 2000,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML file with a [manager] table.")] = None,
    broker: Annotated[str | None, typer.Option(help="MQTT broker.", show_default="127.0.0.1:1883")] = None,
    fleet: Annotated[str | None, typer.Option(help="Name of the fleet.", show_default="demo")] = None,
    audit: Annotated[str | None, typer.Option(help="SQLite file to note the commands in.")] = None,
    output: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print.")] = "table",
) -> None:
    """Measure policies on a live board: loading, first and later steps, memory, heat. It does not act meanwhile.

    Each policy is measured in a process of its own on the board, one after the other; then the board goes on.

    Example: `edgerl bench float32.tflite int8.tflite --on kitchen-1 -c fleet/manager/edgerl.toml`
    """
    from edgerl.command_command import open_commander  # noqa: PLC0415

    models = {path: _read(path) for path in policies}
    results: dict[Path, BenchResult] = {}
    with open_commander(board, kind="candidate", config=config, broker=broker, fleet=fleet, audit=audit) as commander:
        birth = commander.find()
        for path, model in track(models.items(), description="measuring", console=Console(stderr=True)):
            asked = Bench(model=model, copies=copies, steps=steps)
            reply = commander.send(asked, run_id=birth.run_id, wait_s=_WAIT_S)
            if not isinstance(reply.result, BenchResult):
                sentence = reply.problem.sentence if reply.problem else "it gave no figures"
                raise ProgramError(ExitCode.COMMAND_FAILED, f"board {board!r}, {path}: {sentence}")
            results[path] = reply.result
    if output == "json":
        told = [{"policy": str(path), **msgspec.to_builtins(result)} for path, result in results.items()]
        print(json.dumps({"schema": 1, "board": board, "policies": told}, indent=2))  # noqa: T201
    else:
        Console().print(_table(board, results))


def _read(path: Path) -> bytes:
    try:
        model = path.read_bytes()
    except OSError as error:
        raise ProgramError(ExitCode.USAGE, f"cannot read {path}: {error.strerror}") from error
    if len(model) > LARGEST_MODEL:
        raise ProgramError(ExitCode.USAGE, f"{path} has {len(model)} bytes: boards take at most {LARGEST_MODEL}")
    return model


def _table(board: str, results: dict[Path, BenchResult]) -> Table:
    runtime = next(iter(results.values())).runtime
    table = Table(
        "policy", *("load ms", "first us", "p50", "p95", "p99", "p99.9", "MB", "heat"), title=f"{board}: {runtime}"
    )
    for path, result in sorted(results.items(), key=lambda item: item[1].p50_us):
        heat = "" if result.temperature_c is None else f"{result.temperature_c:.0f} C"
        if result.throttled:
            heat += " throttled"
        figures = (result.first_us, result.p50_us, result.p95_us, result.p99_us, result.p999_us)
        table.add_row(
            str(path), f"{result.load_ms:.2f}", *(f"{us:.1f}" for us in figures), f"{result.rss_mb:.1f}", heat
        )
    return table
