"""`edgerl enroll BOARD`, on the operator's machine: a folder with a key to copy, or a token for a key that stays."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fleet_protocol.exit_codes import ProgramError

_SHORTEST_MINUTES = 0.05
_LONGEST_MINUTES = 7 * 24 * 60.0


def main(arguments: Sequence[str]) -> int:
    """Enrol a board; returns the exit code."""
    flags = _parser().parse_args(arguments)
    try:
        if flags.token:
            _make_token(flags.board, flags.dir, minutes=flags.minutes)
        else:
            _make_folder(flags.board, flags.dir)
    except ProgramError as error:
        print(f"edgerl enroll: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


def _make_folder(board: str, directory: Path) -> None:
    from fleet_manager.fleet_folder import FleetFolder  # noqa: PLC0415

    folder = FleetFolder(directory).enroll(board)
    print(  # noqa: T201
        f"Copy {folder} to the board, by a way that nobody reads, and start it there:\n"
        f"edgerl act -c {folder.name}/edgerl.toml"
    )


def _make_token(board: str, directory: Path, *, minutes: float) -> None:
    from fleet_manager.enrolment import Enrolment  # noqa: PLC0415
    from fleet_manager.fleet_folder import FleetFolder  # noqa: PLC0415

    was_revoked = board in FleetFolder(directory).authority.revoked_names()
    token = Enrolment(directory).make_token(board, minutes=minutes)
    # The token alone goes to the output, so that a script can take it.
    print(  # noqa: T201
        f"This token is good once, for {minutes:g} minutes, for {board}; it is shown only now. On the board:\n"
        "edgerl enroll --depot https://HOST:PORT --token TOKEN",
        file=sys.stderr,
    )
    if was_revoked:
        broker = FleetFolder(directory).broker
        print(  # noqa: T201
            f"{board} was revoked: once it is enrolled, have mosquitto read its files again: "
            f"kill -HUP $(cat {broker}/mosquitto.pid); if it runs on another machine, copy {broker} there first.",
            file=sys.stderr,
        )
    print(token)  # noqa: T201


def _minutes(text: str) -> float:
    minutes = float(text)
    if not _SHORTEST_MINUTES <= minutes <= _LONGEST_MINUTES:
        raise argparse.ArgumentTypeError(f"expected {_SHORTEST_MINUTES} to {_LONGEST_MINUTES:.0f}")
    return minutes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgerl enroll",
        description="Make a board a member of the fleet: a folder with its key to copy there, or, with --token, the "
        "right to one certificate for a key that the board makes itself.",
        epilog="On the board: edgerl enroll --depot https://HOST:PORT --token TOKEN (--depot x --help lists its flags)",
    )
    parser.add_argument("board", metavar="BOARD", help="the board's id")
    parser.add_argument("--dir", type=Path, default=Path("fleet"), help="folder of edgerl broker init (default fleet)")
    parser.add_argument("--token", action="store_true", help="make a token for edgerl depot run, and no key")
    parser.add_argument("--minutes", type=_minutes, default=60.0, help="so long the token is good (default 60)")
    return parser
