"""The main job on one machine: a broker, a learner and boards as real processes, watched live."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from rich.console import Console
from rich.live import Live

from cloud_learner.config import LearnerSettings
from edge_actor.config import BoardSettings
from edgerl.broker import start_broker
from edgerl.broker_command import ending_with_us
from edgerl.demo_view import final_table, live_view
from fleet_monitor.collector import Collector
from fleet_monitor.fleet import FleetView
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.settings import load_settings

_FLEET: Final = "demo"
_CARTPOLE_TARGET: Final = 475.0
_TIME_LIMIT_S: Final = 300.0
_POLL_S: Final = 0.1
_END_WAIT_S: Final = 1.0
_INTERRUPT_WAIT_S: Final = 2.0
_FAILED_WORK: Final = frozenset({ExitCode.ENVIRONMENT_FAILED})


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What `edgerl demo` was asked for."""

    learner: LearnerSettings
    learner_flags: dict[str, str]
    boards: int
    report: Path
    broker_kind: Literal["auto", "mosquitto", "amqtt"]
    database: Path | None
    seed: int
    allowed_environments: list[str]
    config: Path | None


def plan_demo(
    flags: dict[str, Any],
    *,
    boards: int,
    report: Path,
    broker_kind: Literal["auto", "mosquitto", "amqtt"],
    database: Path | None,
    seed: int,
    allowed_environments: list[str],
    config: Path | None,
) -> DemoPlan:
    """Fill in what was not asked for: from the file, else what suits a demo.

    Args:
        flags: Learner settings from the command line; None for those not given.
        boards: Agents to start.
        report: Where the report goes.
        broker_kind: Which broker to start.
        database: Where the monitor's history goes; None for a temporary one.
        seed: Of networks and boards.
        allowed_environments: Modules whose environments boards may run, beside Gymnasium's.
        config: The settings file.

    Raises:
        ProgramError: The settings do not hold.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    settings = load_settings(LearnerSettings, "learner", file=config, flags=given)
    if settings.env_id == LearnerSettings().env_id and settings.target_return is None:
        given["target_return"] = _CARTPOLE_TARGET
    if not settings.time_limit_s:
        given["time_limit_s"] = _TIME_LIMIT_S
    allowed = load_settings(BoardSettings, "board", file=config).allowed_environments
    return DemoPlan(
        learner=load_settings(LearnerSettings, "learner", file=config, flags=given),
        learner_flags={name: str(value) for name, value in given.items()},
        boards=boards,
        report=report,
        broker_kind=broker_kind,
        database=database,
        seed=seed,
        allowed_environments=[*allowed, *allowed_environments],
        config=config,
    )


def run_demo(plan: DemoPlan, console: Console) -> int:
    """Run everything, and return the learner's exit code.

    Raises:
        ProgramError: A board cannot do the task, or a process died.
    """
    # `kill` and Ctrl-C end a demo the same way: through KeyboardInterrupt, so that no process is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgerl-demo-")))
        _require_writable(plan.report)
        broker = stack.enter_context(start_broker(None, kind=plan.broker_kind))
        target = plan.learner.target_return
        console.print(
            f"[bold]EdgeRL demo[/bold]: {plan.boards} boards learn {plan.learner.env_id} over {broker.kind} "
            f"{broker.version} at {broker.address}"
            + ("" if target is None else f", to a mean return of {target:g} over 100 episodes")
        )
        collector = stack.enter_context(
            Collector(broker.address, fleet=_FLEET, history_path=plan.database or folder / "fleet.db")
        )
        learner = stack.enter_context(_process("learner", _learner_command(plan, str(broker.address), folder), folder))
        for index in range(plan.boards):
            name = f"board-{index:03d}"
            stack.enter_context(_process(name, _board_command(plan, str(broker.address), name, index), folder))
        try:
            exit_code = _watch(learner, collector, console, folder)
        except KeyboardInterrupt:
            console.print("Stopping: the learner saves its report ...")
            learner.send_signal(signal.SIGINT)
            exit_code = _wait(learner, _INTERRUPT_WAIT_S)
    _conclude(plan, broker.kind, broker.version, console)
    return exit_code


def _watch(learner: "subprocess.Popen[bytes]", collector: Collector, console: Console, folder: Path) -> int:
    """Show the fleet until the learner ends; give up when no board can do the task."""
    started = time.monotonic()
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while (status := learner.poll()) is None:
            view = collector.snapshot()
            live.update(live_view(view, time.monotonic() - started))
            _raise_if_hopeless(view)
            time.sleep(_POLL_S)
    if status not in (ExitCode.OK, ExitCode.TARGET_NOT_REACHED):
        raise ProgramError(
            ExitCode.PROCESS_DIED, f"the learner ended with code {status}: {_last_line(folder / 'learner.log')}"
        )
    return status


def _raise_if_hopeless(view: FleetView) -> None:
    problems = [board.problem for board in view.boards if board.problem is not None]
    if problems and len(problems) == len(view.boards) and problems[0].code not in _FAILED_WORK:
        raise ProgramError(ExitCode(problems[0].code), problems[0].sentence)


def _conclude(plan: DemoPlan, kind: str, version: str, console: Console) -> None:
    if not plan.report.is_file():
        console.print("No report was written.")
        return
    report: dict[str, Any] = json.loads(plan.report.read_text(encoding="utf-8"))
    report["broker"] = {"kind": kind, "version": version}
    plan.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(final_table(report))
    console.print(f"Report: {plan.report}")


def _learner_command(plan: DemoPlan, broker: str, folder: Path) -> list[str]:
    config = ["--config", str(plan.config)] if plan.config else []
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in plan.learner_flags.items()]
    return [
        *("-m", "cloud_learner", "--broker", broker, "--fleet", _FLEET, "--seed", str(plan.seed), *flags, *config),
        *("--state", str(folder / "state"), "--report", str(plan.report)),
    ]


def _board_command(plan: DemoPlan, broker: str, name: str, index: int) -> list[str]:
    seed = ["--seed", str(plan.seed * 1000 + index)] if plan.seed else []
    config = ["--config", str(plan.config)] if plan.config else []
    allowed = [flag for module in plan.allowed_environments for flag in ("--allow-env", module)]
    return [
        *("-m", "edge_actor", "--broker", broker, "--fleet", _FLEET, "--board", name, *seed, *config, *allowed),
        *("--telemetry-period-s", "1", "--state", ""),  # the demo's broker and run end with it
    ]


@contextmanager
def _process(name: str, arguments: list[str], folder: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """A program of ours with its own log, in a session of its own: Ctrl-C reaches it only through us."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            ending_with_us([sys.executable, *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        try:
            yield process
        finally:
            process.terminate()
            _wait(process, _END_WAIT_S)


def _wait(process: "subprocess.Popen[bytes]", timeout_s: float) -> int:
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _require_writable(report: Path) -> None:
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.unlink(missing_ok=True)
        report.touch()
        report.unlink()
    except OSError as error:
        raise ProgramError(ExitCode.USAGE, f"cannot write the report to {report}: {error.strerror}") from error
