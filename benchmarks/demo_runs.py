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
    env_id: str,
    target: float,
    *,
    seed: int,
    time_limit_s: float,
    learner_toml: str = "",
    boards: int = 2,
    look: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """The report of one `edgerl demo`, reached or not.

    Args:
        env_id: What the boards learn.
        target: The mean return of 100 episodes that ends it.
        seed: Of networks and boards; the processes still race, so that it does not fix the result.
        time_limit_s: Seconds of learning after which it gives up.
        learner_toml: Lines of the `[learner]` table.
        boards: Agents, each with one worker.
        look: Called with the demo's process id every quarter of a second.

    Raises:
        RuntimeError: It ended without a report.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report, config, log = folder / "report.json", folder / "edgerl.toml", folder / "demo.log"
        config.write_text(f"[learner]\n{learner_toml}\n", encoding="utf-8")
        command = [sys.executable, "-c", "from edgerl.cli import main; main()", "demo", "--env", env_id]
        command += ["--target-return", str(target), "--time-limit", str(time_limit_s), "--seed", str(seed)]
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
