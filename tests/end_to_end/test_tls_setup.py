"""A new user sets up a TLS fleet from docs/operations.md alone, with and without a depot: its commands run."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from edgerl.broker import free_port
from edgerl.broker_command import find_mosquitto
from fleet_monitor.listing import list_boards

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
SECTION = TEXT.split("## A fleet with certificates")[1].split("\n## ")[0]
PARTS = dict(re.findall(r"(?:^|\n### )([^\n]*)\n(.*?)(?=\n### |$)", SECTION, re.DOTALL))


def blocks(part: str) -> list[str]:
    """The commands under a heading."""
    return re.findall(r"```sh\n(.*?)```", PARTS[part], re.DOTALL)


SETUP, PROGRAMS = blocks("")
(REVOCATION,) = blocks("A stolen board")
DEPOT, TOKEN, ENROLMENT = blocks("Keys that never travel")
(COMMANDS,) = blocks("Commands")
(AUDIT,) = blocks("Who did what")


@pytest.fixture
def box() -> "Iterator[Box]":
    """An empty folder that the user `mosquitto` may pass through."""
    if find_mosquitto() is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("mosquitto is missing: apt install mosquitto")
    with tempfile.TemporaryDirectory(prefix="edgerl-setup-") as name:
        Path(name).chmod(0o755)
        yield Box(Path(name))


class Box:
    """A folder where a user works, with a shell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.depot_port = str(free_port())
        self._environ = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/usr/local/sbin",
            "EDGERL_BROKER_PORT": str(free_port()),
            "EDGERL_DEPOT_PORT": self.depot_port,
        }

    def run(self, block: str) -> None:
        """Run commands to their end; the depot's usual port becomes the test's own."""
        block = block.replace(":8443", f":{self.depot_port}")
        subprocess.run(["bash", "-euc", block], cwd=self.folder, env=self._environ, check=True)

    @contextmanager
    def running(self, command: str, name: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A program in a shell of its own."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self._environ, stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            _end(process)

    def said(self, name: str) -> str:
        """What it printed."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")


def test_two_boards_learn_over_tls_and_a_stolen_one_is_shut_out(box: Box, wait_until: Callable[..., None]):
    box.run(SETUP)
    names = ["mosquitto", "monitor", "kitchen-1", "kitchen-2", "learner"]
    commands = PROGRAMS.splitlines()
    assert len(commands) == len(names)
    with ExitStack() as stack:
        running: dict[str, subprocess.Popen[bytes]] = {}
        for name, command in zip(names, commands, strict=True):
            running[name] = stack.enter_context(box.running(command, name))
            if name == "mosquitto":
                wait_until((box.folder / "fleet/broker/mosquitto.pid").exists, timeout_s=60, what="the broker's start")
        ended = lambda: [name for name, process in running.items() if process.poll() is not None]  # noqa: E731
        wait_until(ended, timeout_s=250, what="the end of the run")
        assert ended() == ["learner"], box.said(ended()[0])
        assert running["learner"].returncode == 0, box.said("learner")
        assert {board.board_id for board in list_boards(box.folder / "fleet.db")} == {"kitchen-1", "kitchen-2"}
        box.run(COMMANDS)
        box.run(AUDIT)
        box.run(REVOCATION)
        wait_until(lambda: "it is revoked" in box.said("kitchen-2"), timeout_s=60, what="the refusal of kitchen-2")
        assert "revoked" not in box.said("kitchen-1")


def test_a_board_enrolls_at_the_depot_acts_is_revoked_and_enrolls_anew(box: Box, wait_until: Callable[..., None]):
    broker, monitor, *_, learner = PROGRAMS.splitlines()
    enroll, act = ENROLMENT.splitlines()

    def steps() -> int:
        return sum(board.env_steps for board in list_boards(box.folder / "fleet.db") if board.board_id == "kitchen-3")

    box.run(SETUP)
    with ExitStack() as stack:
        stack.enter_context(box.running(broker, "mosquitto"))
        wait_until((box.folder / "fleet/broker/mosquitto.pid").exists, timeout_s=60, what="the broker's start")
        depot = stack.enter_context(box.running(DEPOT, "depot"))
        stack.enter_context(box.running(monitor, "monitor"))
        stack.enter_context(box.running(f"{learner} --time-limit-s 600", "learner"))
        wait_until(lambda: "The depot is at" in box.said("depot"), timeout_s=60, what="the depot's start")
        box.run(TOKEN)
        box.run(enroll)
        with box.running(act, "kitchen-3"):
            wait_until((box.folder / "fleet.db").exists, timeout_s=60, what="the monitor's file")
            wait_until(steps, timeout_s=120, what="the board's steps")
            box.run(REVOCATION.replace("kitchen-2", "kitchen-3"))
            wait_until(lambda: "it is revoked" in box.said("kitchen-3"), timeout_s=60, what="the refusal")
        box.run(f"! {enroll}")  # neither the old token ...
        box.run(f"mv kitchen-3 stolen\n! {enroll}")
        box.run("! edgerl enroll --renew --depot https://127.0.0.1:8443 -c stolen/edgerl.toml")  # ... nor the old key
        box.run(f"{TOKEN}{enroll}\nkill -HUP $(cat fleet/broker/mosquitto.pid)")
        before = steps()
        with box.running(act, "kitchen-3-anew"):
            wait_until(lambda: steps() > before, timeout_s=120, what="the board's steps")
        assert depot.poll() is None
    box.run("edgerl audit verify --dir fleet")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    finally:
        process.kill()
        process.wait()
