"""docs/first-run.md does what it says: its broker, its run, its service and its doctor, and a run that is resumed."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloud_learner.config import LearnerSettings
from edge_actor.config import BoardSettings
from edgerl.broker import free_port
from edgerl.broker_command import find_mosquitto
from edgerl.doctor.board import board_probes
from edgerl.doctor.learner import learner_probes
from edgerl.doctor.monitor import monitor_probes
from fleet_monitor.__main__ import MonitorSettings
from fleet_protocol.exit_codes import ExitCode

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/first-run.md").read_text(encoding="utf-8")
UNIT = (ROOT / "firmware_scripts/systemd/edgerl-learner.service").read_text(encoding="ascii")


def blocks(language: str) -> list[str]:
    return [block.strip() for block in re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)]


def command_with(words: str) -> str:
    return next(line for block in blocks("sh") for line in block.splitlines() if words in line)


class Box:
    """The machine of the document, in a folder: /etc and /var lie below it, and the broker has a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.environ = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **{f"EDGERL_{table}_BROKER": f"127.0.0.1:{self.port}" for table in ("LEARNER", "BOARD")},
        }
        (folder / "etc/edgerl").mkdir(parents=True)
        (folder / "var/lib/edgerl").mkdir(parents=True)  # systemd's StateDirectory=
        (folder / "etc/edgerl/edgerl.toml").write_text(blocks("toml")[0], encoding="utf-8")
        config = blocks("conf")[0].replace("1883", str(self.port)) + ("\nuser root\n" if os.geteuid() == 0 else "\n")
        (folder / "mosquitto.conf").write_text(config, encoding="ascii")

    def words(self, command: str) -> list[str]:
        """The command as it runs in this box."""
        here = command.removeprefix("sudo ").replace("/opt/edgerl/bin/", "")
        return shlex.split(re.sub(r"(?<= )/(etc|var)/", rf"{self.folder}/\1/", here))

    def start(self, command: list[str], log: str) -> "subprocess.Popen[bytes]":
        with (self.folder / log).open("wb") as output:
            return subprocess.Popen(command, cwd=self.folder, env=self.environ, stdout=output, stderr=subprocess.STDOUT)

    def said(self, log: str) -> str:
        return (self.folder / log).read_text(encoding="utf-8", errors="replace")

    def run(self, command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.words(command), cwd=self.folder, env=self.environ, capture_output=True, text=True, check=False
        )


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A box with the document's broker running."""
    mosquitto = find_mosquitto()
    if mosquitto is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("mosquitto is missing: apt install mosquitto")
    box = Box(tmp_path)
    broker = box.start([mosquitto, "-c", str(tmp_path / "mosquitto.conf")], "mosquitto.log")
    try:
        yield box
    finally:
        broker.terminate()
        assert broker.wait(10) == 0, box.said("mosquitto.log")


def serve(box: Box, log: str, wait_until: Callable[..., None]) -> str:
    """The service from its start to the SIGTERM of a shutdown, and what it said."""
    found = re.search(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
    assert found is not None
    learner = box.start(box.words(found[1]), log)
    try:
        wait_until(
            lambda: re.search(r"[1-9][0-9,]* steps", box.said(log)) or learner.poll() is not None,
            timeout_s=60,
            what=f"steps in {log}",
        )
        learner.send_signal(signal.SIGTERM)
        assert learner.wait(60) == ExitCode.INTERRUPTED, box.said(log)
    finally:
        learner.kill()
        learner.wait()
    return box.said(log)


def test_the_service_learns_ends_at_sigterm_and_resumes(box: Box, wait_until: Callable[..., None]):
    doctor = command_with("doctor learner")
    wait_until(lambda: box.run(doctor).returncode == ExitCode.OK, timeout_s=60, what="a doctor without problems")
    board = box.start(box.words(command_with("edgerl act")), "board.log")
    try:
        assert "resuming run" not in serve(box, "first.log", wait_until)
        again = serve(box, "second.log", wait_until)
        resumed = re.search(r"resuming run (\w+) from (\S+)", again)
        assert resumed is not None, again
        assert resumed[2] == str(box.folder / "var/lib/edgerl/state")
        assert set(re.findall(r"run (\w+): CartPole-v1", box.said("board.log"))) == {resumed[1]}
    finally:
        board.terminate()
        assert board.wait(15) == 0, box.said("board.log")


def test_the_doctors_commands_for_boards_and_environments_run(box: Box, wait_until: Callable[..., None]):
    wait_until(
        lambda: box.run(command_with("doctor board")).returncode == ExitCode.OK, timeout_s=60, what="a well board"
    )
    command = re.search(r"`(edgerl doctor env [^`]*)`", DOCUMENT)
    assert command is not None
    assert "env rate:" in box.run(command[1]).stdout


def test_every_line_of_the_doctor_is_explained():
    explained = set(re.findall(r"^\| (\w+) \| `(\w+)` \|", DOCUMENT, re.MULTILINE))
    probes = {
        "learner": learner_probes(LearnerSettings()),
        "board": board_probes(BoardSettings()),
        "monitor": monitor_probes(MonitorSettings()),
    }
    lines = {(area, name) for area, table in probes.items() for name in table if name != "broker"}
    of_env = {("env", name) for name in ["library", "make", "checker", "spaces", "reset", "step", "rate", "close"]}
    assert explained == lines | of_env | {("all", "settings"), ("all", "broker")}
