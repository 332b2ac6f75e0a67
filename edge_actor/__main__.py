"""`python -m edge_actor`: the board's agent. A freshly flashed board needs a broker's address, and an id."""

import argparse
import logging
import signal
import sys
from pathlib import Path

from edge_actor.config import BoardSettings, default_board_id
from edge_actor.supervisor import Supervisor
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.settings import add_tls_flags, load_settings
from fleet_protocol.tls import TlsFiles
from fleet_protocol.topics import BadName, checked_name


def main(arguments: list[str] | None = None) -> int:
    """Run the agent until it is told to stop; returns the exit code."""
    flags = vars(_parser().parse_args(arguments))
    config: Path | None = flags.pop("config")
    logging.basicConfig(level=flags.pop("log_level").upper(), format="%(levelname)s %(message)s")
    try:
        settings = load_settings(BoardSettings, "board", file=config, flags=flags)
        supervisor = Supervisor(settings, board_id=_checked_id(settings))
    except ProgramError as error:
        print(f"edgerl act: {error}", file=sys.stderr)  # noqa: T201 - the one line for a person
        return error.exit_code
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda _number, _frame: supervisor.stop())
    supervisor.run()
    return 0


def _checked_id(settings: BoardSettings) -> str:
    try:
        checked_name(settings.fleet, what="fleet")
        return checked_name(_board_id(settings), what="board")
    except BadName as error:
        raise ProgramError(ExitCode.CONFIG, str(error)) from error


def _board_id(settings: BoardSettings) -> str:
    """The id that was set; else the certificate's name; else the host name. The broker lets a board be nobody else."""
    if not settings.cert:
        return settings.board or default_board_id()
    certified = TlsFiles(Path(settings.ca), Path(settings.cert), Path(settings.key)).name()
    if settings.board not in ("", certified):
        raise ProgramError(
            ExitCode.CONFIG,
            f"board {settings.board!r}: its certificate {settings.cert} is for {certified!r}; take the board's own "
            "files, or leave `board` out",
        )
    return certified


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgerl act",
        description="Act on this board: connect to the broker, take the learner's run and policies, roll out the "
        "environment here, and send what happens back. Ctrl-C ends it.",
        epilog="Each flag can stand in the [board] table of a TOML file (--config) or in EDGERL_BOARD_<NAME>. "
        "Example: python -m edge_actor --broker 127.0.0.1:1883 --board kitchen-1",
    )
    parser.add_argument("-c", "--config", type=Path, help="TOML file to read the [board] table from")
    parser.add_argument("--broker", help="MQTT broker, HOST or HOST:PORT (default 127.0.0.1:1883)")
    add_tls_flags(parser)
    parser.add_argument("--fleet", help="name of the fleet (default demo)")
    parser.add_argument("--board", help="this board's id (default: the host name)")
    parser.add_argument("--workers", type=int, help="worker processes (default 1)")
    parser.add_argument("--copies", type=int, help="environments per worker (default: as the run says)")
    parser.add_argument(
        "--allow-env",
        action="append",
        dest="allowed_environments",
        metavar="MODULE",
        help="allow environments from this module; may be given again (default: gymnasium's own only)",
    )
    parser.add_argument("--seed", type=int, help="seed of the first worker (default: from the system)")
    parser.add_argument("--outbox-bytes", type=int, help="bytes of unacked windows to keep (default 64 MiB)")
    parser.add_argument("--policy-bytes", type=int, help="bytes that a policy may have (default 8 MiB)")
    parser.add_argument("--state", help="folder for what survives a restart (default edgerl-board; '' = none)")
    parser.add_argument("--spill-after-s", type=float, help="seconds until unacked windows go to disk (default 10)")
    parser.add_argument("--keep-policy-every-s", type=float, help="seconds between policies kept there (default 300)")
    parser.add_argument("--step-timeout-s", type=float, help="seconds that a step may take at most (default 30)")
    parser.add_argument("--telemetry-period-s", type=float, help="seconds between telemetry messages (default 2)")
    parser.add_argument("--root-key", metavar="FILE", help="root public key: act only on signed frames")
    parser.add_argument("--clock-floor-s", type=float, help="UTC seconds when this board was flashed (default 0)")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parser


if __name__ == "__main__":
    sys.exit(main())
