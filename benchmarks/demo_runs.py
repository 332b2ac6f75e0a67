"""Run the real demo in a process of its own, and read its report."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

_LOOK_EVERY_S: Final = 0.25


def run_demo(
    flags: list[str],
    *,
    seed: int,
    time_limit_s: float,
    settings: str = "",
    boards: int = 2,
    look: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """The report of one `edgerl demo`, reached or not.

    Args:
        flags: What the boards learn, and to which return.
        seed: Of networks and boards; the processes still race, so that it does not fix the result.
        time_limit_s: Seconds of learning after which it gives up.
        settings: A settings file's text.
        boards: Agents, each with one worker.
        look: Called with the demo's process id every quarter of a second.

    Raises:
        RuntimeError: It ended without a report.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report, config, log = folder / "report.json", folder / "edgerl.toml", folder / "demo.log"
        config.write_text(settings, encoding="utf-8")
        command = [sys.executable, "-c", "from edgerl.cli import main; main()", "demo", *flags]
        command += ["--time-limit", str(time_limit_s), "--seed", str(seed)]
        command += ["--boards", str(boards), "--report", str(report), "--config", str(config)]
        with log.open("wb") as said:
            _watch(subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT), look)
        if not report.is_file() or not report.stat().st_size:
            raise RuntimeError(log.read_text(encoding="utf-8", errors="replace"))
        return json.loads(report.read_text(encoding="utf-8"))


def _watch(demo: "subprocess.Popen[bytes]", look: Callable[[int], None] | None) -> None:
    try:
        while True:
            try:
                demo.wait(_LOOK_EVERY_S if look else None)
            except subprocess.TimeoutExpired:
                if look:
                    look(demo.pid)
            else:
                return
    finally:
        if demo.poll() is None:
            demo.terminate()  # ends its own processes, as Ctrl-C does
            demo.wait()
