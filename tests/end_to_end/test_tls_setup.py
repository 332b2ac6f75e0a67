"""A new user sets up a TLS fleet of two boards from docs/operations.md alone: its commands run as they stand."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edgerl.broker import free_port
from edgerl.broker_command import find_mosquitto
from fleet_monitor.listing import list_boards

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
SECTION = TEXT.split("## A fleet with certificates")[1].split("\n## ")[0]
WITHOUT_DEPOT = re.sub(r"### Keys that never travel.*?(?=\n### )", "", SECTION, flags=re.DOTALL)
SETUP, PROGRAMS, REVOCATION = re.findall(r"```sh\n(.*?)```", WITHOUT_DEPOT, re.DOTALL)


@pytest.fixture
def box() -> Iterator[Path]:
    """An empty folder that the user `mosquitto` may pass through."""
    if find_mosquitto() is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("mosquitto is missing: apt install mosquitto")
    with tempfile.TemporaryDirectory(prefix="edgerl-setup-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_two_boards_learn_over_tls_and_a_stolen_one_is_shut_out(box: Path, wait_until: Callable[..., None]):
    environ = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/usr/local/sbin",
        "EDGERL_BROKER_PORT": str(free_port()),
    }

    def run(block: str) -> None:
        subprocess.run(["bash", "-euc", block], cwd=box, env=environ, check=True)

    def said(name: str) -> str:
        return (box / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def start(command: str, name: str) -> "subprocess.Popen[bytes]":
        with (box / f"{name}.log").open("wb") as log:
            return subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=box, env=environ, stdout=log, stderr=log)

    run(SETUP)
    names = ["mosquitto", "monitor", "kitchen-1", "kitchen-2", "learner"]
    commands = PROGRAMS.splitlines()
    assert len(commands) == len(names)
    with ExitStack() as stack:
        running: dict[str, subprocess.Popen[bytes]] = {}
        for name, command in zip(names, commands, strict=True):
            running[name] = process = start(command, name)
            stack.callback(_end, process)
            if name == "mosquitto":
                wait_until((box / "fleet/broker/mosquitto.pid").exists, what="the broker's start")
        ended = lambda: [name for name, process in running.items() if process.poll() is not None]  # noqa: E731
        wait_until(ended, timeout_s=150, what="the end of the run")
        assert ended() == ["learner"], said(ended()[0])
        assert running["learner"].returncode == 0, said("learner")
        assert {board.board_id for board in list_boards(box / "fleet.db")} == {"kitchen-1", "kitchen-2"}
        run(REVOCATION)
        wait_until(lambda: "it is revoked" in said("kitchen-2"), timeout_s=30, what="the refusal of kitchen-2")
        assert "revoked" not in said("kitchen-1")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    finally:
        process.kill()
        process.wait()
