"""A newcomer gets there by the README alone: its commands run as they stand."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from edgerl.broker import free_port

ROOT = Path(__file__).parents[2]


def commands_apart() -> list[str]:
    """The shell block under "The programs apart"."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("## The programs apart")[1].split("```sh\n")[1].split("```")[0]
    return [line.split("#")[0].strip() for line in block.splitlines()]


def test_the_programs_apart_learn_cartpole_and_are_listed(tmp_path: Path, wait_until: Callable[..., None]):
    broker, learn, act, monitor, fleet_list, fleet_show = commands_apart()
    port = free_port()
    environ = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "EDGERL_BROKER_PORT": str(port),
        **{f"EDGERL_{table}_BROKER": f"127.0.0.1:{port}" for table in ("LEARNER", "BOARD", "MONITOR")},
    }

    def start(command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            shlex.split(command),
            cwd=tmp_path,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(process: "subprocess.Popen[str]", number: int = signal.SIGINT) -> str:
        process.send_signal(number)
        said = process.communicate(timeout=15)[0]
        assert "Traceback" not in said
        return said

    def ask(command: str) -> str:
        return subprocess.run(
            shlex.split(command), cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
        ).stdout

    running = [start(broker)]
    try:
        assert str(port) in running[0].stdout.readline()  # pyright: ignore[reportOptionalMemberAccess]
        learner, board, recorder = (start(command) for command in (learn, act, monitor))
        running += [learner, board, recorder]
        said = learner.communicate(timeout=120)[0]
        assert learner.returncode == 0, said
        assert "mean return" in said.splitlines()[-1]
        wait_until(lambda: "kitchen-1" in ask(fleet_list), what="the board in the list")
        assert "inference_us" in ask(fleet_show)
        for process in (recorder, board, running[0]):
            finish(process)
            assert process.returncode == 0
    finally:
        for process in running:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def test_every_command_of_the_readme_explains_itself():
    commands = ["demo", "learn", "act", "monitor", "broker run", "fleet list", "fleet show", "config show", "help"]
    for command in [*commands, "doctor", "doctor env", "broker init", "broker renew", "broker revoke", "enroll"]:
        said = subprocess.run(
            [sys.executable, "-c", "from edgerl.cli import main; main()", *command.split(), "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(said.stdout) > 200, command
