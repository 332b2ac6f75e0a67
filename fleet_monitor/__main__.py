"""`python -m fleet_monitor`: record a fleet until told to stop."""

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from msgspec import Struct

from fleet_monitor.collector import Collector
from fleet_protocol.address import BrokerAddress
from fleet_protocol.exit_codes import ProgramError
from fleet_protocol.settings import load_settings

_log = logging.getLogger("fleet_monitor")
_CONNECT_WAIT_S = 10.0


class MonitorSettings(Struct, frozen=True, kw_only=True):
    """Table `[monitor]`; every field can be a flag or an `EDGERL_MONITOR_*` variable."""

    broker: str = "127.0.0.1:1883"
    """Address of the MQTT broker, HOST or HOST:PORT."""
    fleet: str = "demo"
    """Name of the fleet."""
    db: str = "fleet.db"
    """SQLite file to record into."""


def main(arguments: list[str] | None = None) -> int:
    """Record until SIGINT or SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="edgerl monitor",
        description="Record what every board reports; `edgerl fleet list` and `fleet show BOARD` read it back.",
    )
    parser.add_argument("-c", "--config", type=Path, help="TOML file to read the [monitor] table from")
    parser.add_argument("--broker", help="MQTT broker, HOST or HOST:PORT (default 127.0.0.1:1883)")
    parser.add_argument("--fleet", help="name of the fleet (default demo)")
    parser.add_argument("--db", help="SQLite file to record into (default fleet.db)")
    flags = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        settings = load_settings(MonitorSettings, "monitor", file=flags.pop("config"), flags=flags)
        _record(settings)
    except ProgramError as error:
        print(f"edgerl monitor: {error}", file=sys.stderr)  # noqa: T201 - the one line for a person
        return error.exit_code
    return 0


def _record(settings: MonitorSettings) -> None:
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda _number, _frame: stop.set())
    address = BrokerAddress.parse(settings.broker).require_loopback()
    states: dict[str, str] = {}
    with Collector(address, fleet=settings.fleet, history_path=Path(settings.db)) as collector:
        collector.wait_connected(_CONNECT_WAIT_S)
        _log.info("recording fleet %s at %s into %s; Ctrl-C ends it", settings.fleet, address, settings.db)
        while not stop.wait(0.5):
            for board in collector.snapshot().boards:
                if states.get(board.board_id) != board.state:
                    states[board.board_id] = board.state
                    _log.info("%s is %s", board.board_id, board.state)


if __name__ == "__main__":
    sys.exit(main())
