"""`edgerl depot run`: its log, and the extra that it needs."""

import importlib.util
import logging
from pathlib import Path

from fleet_protocol.exit_codes import ExitCode, ProgramError


def run(directory: Path, *, hosts: list[str], bind: str, port: int) -> None:
    """Serve until Ctrl-C.

    Raises:
        ProgramError: The extra is not installed, there is no fleet in the folder, or the port is taken.
    """
    if not all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn")):
        raise ProgramError(ExitCode.DEPENDENCY_MISSING, "the depot needs an extra: pip install 'edgerl[manager]'")
    from fleet_manager.depot import run_depot  # noqa: PLC0415

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    run_depot(directory, hosts=hosts, bind=bind, port=port, started=_started)


def _started(url: str) -> None:
    print(  # noqa: T201
        f"The depot is at {url}. Make a token: edgerl enroll BOARD --token; on the board: "
        f"edgerl enroll --depot {url} --token TOKEN",
        flush=True,
    )
