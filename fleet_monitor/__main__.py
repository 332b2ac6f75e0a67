"""`python -m fleet_monitor`: record a fleet until told to stop."""

import argparse
import logging
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta, Struct

from fleet_monitor.collector import Collector
from fleet_monitor.fleet import FleetView
from fleet_protocol.address import broker_address
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.settings import add_tls_flags, load_settings
from fleet_protocol.topics import BadName, checked_name

_log = logging.getLogger("fleet_monitor")
_CONNECT_WAIT_S: Final = 10.0
_LOOK_PERIOD_S: Final = 0.5
_SUMMARY_PERIOD_S: Final = 60.0


class MonitorSettings(Struct, frozen=True, kw_only=True):
    """Table `[monitor]`; every field can be a flag or an `EDGERL_MONITOR_*` variable."""

    broker: str = "127.0.0.1:1883"
    """Address of the MQTT broker, HOST or HOST:PORT."""
    ca: str = ""
    """File of the fleet's CA (PEM); with `cert` and `key` the broker is spoken to over TLS."""
    cert: str = ""
    """File of this program's certificate (PEM)."""
    key: str = ""
    """File of its private key (PEM)."""
    insecure: bool = False
    """Speak to a broker on another machine in plain text, where anybody between can read and change it."""
    fleet: str = "demo"
    """Name of the fleet."""
    db: str = "fleet.db"
    """SQLite file to record into."""
    flush_period_s: Annotated[float, Meta(ge=0.1)] = 2.0
    """Seconds between writes: each adds one row of latencies for every board and measure."""
    keep_hours: Annotated[float, Meta(gt=0)] = 48.0
    """Latencies older than this are deleted."""


def main(arguments: list[str] | None = None) -> int:
    """Record until SIGINT or SIGTERM; returns the exit code."""
    flags = vars(_parser().parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        settings = load_settings(MonitorSettings, "monitor", file=flags.pop("config"), flags=flags)
        checked_name(settings.fleet, what="fleet")
        _record(settings)
    except BadName as error:
        return _explain(ExitCode.USAGE, error)
    except ProgramError as error:
        return _explain(error.exit_code, error)
    return ExitCode.OK


def _record(settings: MonitorSettings) -> None:
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda _number, _frame: stop.set())
    address = broker_address(settings)
    reporter = _Reporter()
    with Collector(
        address,
        fleet=settings.fleet,
        history_path=Path(settings.db),
        flush_period_s=settings.flush_period_s,
        keep_hours=settings.keep_hours,
    ) as collector:
        collector.wait_connected(_CONNECT_WAIT_S)
        _log.info("recording fleet %s at %s into %s; Ctrl-C ends it", settings.fleet, address, settings.db)
        while not stop.wait(_LOOK_PERIOD_S):
            reporter.report(collector.snapshot())
        reporter.sum_up(collector.snapshot())


class _Reporter:
    """Says what has changed, and once a minute how things are."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._summary_due = time.monotonic() + _SUMMARY_PERIOD_S

    def report(self, view: FleetView) -> None:
        """Log what is new."""
        for board in view.boards:
            if self._states.get(board.board_id) != board.state:
                self._states[board.board_id] = board.state
                _log.info("%s is %s", board.board_id, board.state)
        if time.monotonic() >= self._summary_due:
            self._summary_due = time.monotonic() + _SUMMARY_PERIOD_S
            self.sum_up(view)

    def sum_up(self, view: FleetView) -> None:
        """Log how things are: once a minute, and at the end."""
        states = Counter(board.state for board in view.boards)
        steps_per_s = sum(board.steps_per_s for board in view.boards)
        _log.info("boards %s; %.0f steps/s; ignored messages %s", dict(states), steps_per_s, view.ignored)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgerl monitor",
        description="Record what every board reports; `edgerl fleet list` and `fleet show BOARD` read it back.",
    )
    parser.add_argument("-c", "--config", type=Path, help="TOML file to read the [monitor] table from")
    parser.add_argument("--broker", help="MQTT broker, HOST or HOST:PORT (default 127.0.0.1:1883)")
    add_tls_flags(parser)
    parser.add_argument("--fleet", help="name of the fleet (default demo)")
    parser.add_argument("--db", help="SQLite file to record into (default fleet.db)")
    parser.add_argument("--flush-period-s", type=float, help="seconds between writes (default 2)")
    parser.add_argument("--keep-hours", type=float, help="delete latencies older than this (default 48)")
    return parser


def _explain(exit_code: ExitCode, error: Exception) -> ExitCode:
    print(f"edgerl monitor: {error}", file=sys.stderr)  # noqa: T201 - the one line for a person
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
