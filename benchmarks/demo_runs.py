"""Run the real demo in a process of its own, and read its report."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def run_demo(env_id: str, target: float, *, seed: int, time_limit_s: float, learner_toml: str = "") -> dict[str, Any]:
    """The report of one `edgerl demo`, reached or not.

    Raises:
        RuntimeError: It ended without a report.
    """
    with tempfile.TemporaryDirectory() as folder:
        report, config = Path(folder) / "report.json", Path(folder) / "edgerl.toml"
        config.write_text(f"[learner]\n{learner_toml}\n", encoding="utf-8")
        command = [sys.executable, "-c", "from edgerl.cli import main; main()", "demo", "--env", env_id]
        command += ["--target-return", str(target), "--time-limit", str(time_limit_s), "--seed", str(seed)]
        command += ["--report", str(report), "--config", str(config)]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        if not report.is_file():
            raise RuntimeError(said.stdout + said.stderr)
        return json.loads(report.read_text(encoding="utf-8"))
