"""`edgerl doctor`, or `python -m edgerl.doctor` where no typer is installed: can this machine do its part?

Read this first. An area (learner, board, monitor) is a table of probes in a module of its own; each gives a finding, a
probe that fails is a finding too, and the first problem decides the exit code.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from edgerl.doctor.checks import Check, Finding, Probe, examine, ok
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.settings import load_settings

_SCHEMA: Final = 1
_AREAS: Final = ("learner", "board", "monitor")


def main(arguments: list[str] | None = None) -> int:
    """Check, print, and return the exit code."""
    asked = _parser().parse_args(arguments)
    if asked.area == "env":
        measured: dict[str, Any] = {}
        return _print_all(_examine_environment(asked, measured), asked.format, extra={"measured": measured})
    areas = [asked.area] if asked.area else _areas_of_this_installation()
    return _print_all(_examine_areas(areas, asked), asked.format)


def _examine_environment(asked: argparse.Namespace, measured: dict[str, Any]) -> Iterator[Check]:
    stages: list[Callable[..., Iterator[Check]]] = []
    yield from examine("env", {"library": partial(_import_stages, stages)})
    for stage in stages:
        yield from stage(asked, measured)


def _import_stages(stages: list[Callable[..., Iterator[Check]]]) -> Finding:
    import gymnasium  # noqa: PLC0415 - a learner has none

    from edgerl.doctor.environment import examine_environment  # noqa: PLC0415 - the same

    stages.append(examine_environment)
    return ok(f"gymnasium {gymnasium.__version__}")


def _examine_areas(areas: Iterable[str], asked: argparse.Namespace) -> Iterator[Check]:
    for area in areas:
        probes: dict[str, Probe] = {}
        yield from examine(area, {"settings": partial(_read_settings, area, asked, probes)})
        yield from examine(area, probes)


def _read_settings(area: str, asked: argparse.Namespace, probes: dict[str, Probe]) -> Finding:
    """Whatever is wrong with the settings, or with an import of the area, is a finding too."""
    probes.update(_probes(area, asked))
    return ok(f"from {asked.config}" if asked.config else "defaults, and what EDGERL_* variables say")


def _probes(area: str, asked: argparse.Namespace) -> dict[str, Probe]:
    # Each area imports the packages of its own program only.
    flags: dict[str, Any] = {"broker": asked.broker}
    if area == "learner":
        from cloud_learner.config import LearnerSettings  # noqa: PLC0415
        from edgerl.doctor.learner import learner_probes  # noqa: PLC0415

        flags["state"] = asked.state
        return learner_probes(load_settings(LearnerSettings, area, file=asked.config, flags=flags))
    if area == "board":
        from edge_actor.config import BoardSettings  # noqa: PLC0415
        from edgerl.doctor.board import board_probes  # noqa: PLC0415

        return board_probes(load_settings(BoardSettings, area, file=asked.config, flags=flags))
    from edgerl.doctor.monitor import monitor_probes  # noqa: PLC0415
    from fleet_monitor.__main__ import MonitorSettings  # noqa: PLC0415

    flags["db"] = asked.db
    return monitor_probes(load_settings(MonitorSettings, area, file=asked.config, flags=flags))


def _areas_of_this_installation() -> list[str]:
    """A monitor needs no more than the base; the others are told by a package that only they need."""
    mark = {"learner": "torch", "board": "gymnasium", "monitor": "msgspec"}
    return [area for area in _AREAS if importlib.util.find_spec(mark[area]) is not None]


def _print_all(checks: Iterable[Check], form: str, *, extra: Mapping[str, Any] = MappingProxyType({})) -> ExitCode:
    """Print each check when it is done (text), or all at the end (JSON), with what `extra` holds by then."""
    done: list[Check] = []
    # What an environment prints must not come between the JSON.
    with redirect_stdout(sys.stderr) if form == "json" else nullcontext():
        for check in checks:
            done.append(check)
            if form == "text":
                _print_line(check)
    problems = [check.finding.exit_code for check in done if check.finding.status == "problem"]
    if form == "json":
        print(json.dumps({"schema": _SCHEMA, "checks": [check.to_json() for check in done], **extra}, indent=2))  # noqa: T201
    else:
        warnings = sum(check.finding.status == "warning" for check in done)
        print(f"checks: {len(done)}, problems: {len(problems)}, warnings: {warnings}")  # noqa: T201
    return problems[0] if problems else ExitCode.OK


def _print_line(check: Check) -> None:
    finding = check.finding
    print(f"{finding.status:<8} {check.area} {check.id.replace('_', ' ')}: {finding.found}", flush=True)  # noqa: T201
    if finding.advice:
        print(f"{'':8} -> {finding.advice}", flush=True)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--format", choices=["text", "json"], help="how to print (default text)")
    common.add_argument("-c", "--config", type=Path, help="TOML file with the programs' tables")
    common.add_argument("--broker", help="MQTT broker, HOST or HOST:PORT (default: as configured)")
    common.add_argument("--state", help="the learner's state folder (default: as configured)")
    common.add_argument("--db", help="the monitor's SQLite file (default: as configured)")
    parser = argparse.ArgumentParser(
        prog="edgerl doctor",
        parents=[common],
        description="Check that this machine can do its part, and say what to do where it cannot. Without an area: all "
        "that this installation can be. Exit code 0 when there is no problem; `edgerl help CODE` explains others.",
    )
    parser.set_defaults(format="text", config=None, broker=None, state=None, db=None)
    areas = parser.add_subparsers(dest="area", metavar="learner | board | monitor | env")
    areas.add_parser("learner", parents=[common], help="torch, GPU, state folder, broker")
    areas.add_parser("board", parents=[common], help="TFLite runtime, environment library, the board itself, broker")
    areas.add_parser("monitor", parents=[common], help="database, disk, broker")
    env = areas.add_parser("env", parents=[common], help="make an environment as a board would, check and time it")
    env.add_argument("name", help="Gymnasium id, or module:Class")
    env.add_argument("--control-hz", type=float, default=0.0, help="can this machine hold so many steps a second?")
    env.add_argument("--allow-env", action="append", default=[], metavar="PREFIX", help="allow code of this module too")
    env.add_argument("--env-kwargs", default="{}", metavar="JSON", help="arguments of the environment")
    return parser


if __name__ == "__main__":
    sys.exit(main())
