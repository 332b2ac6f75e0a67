"""A board with a state folder goes on after a restart or a power cut before any network is there (D7)."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet_processes import Program, board, learner

from edgerl.broker import RunningBroker, free_port
from fleet_monitor.collector import Collector
from fleet_protocol.address import BrokerAddress

MODULE = """
from pathlib import Path
import gymnasium
import numpy as np


class Counting(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, folder):
        self.steps = Path(folder) / "steps"

    def reset(self, *, seed=None, options=None):
        self.age = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.age += 1
        with self.steps.open("ab", buffering=0) as file:
            file.write(b".")
        return np.zeros(2, np.float32), 1.0, False, self.age == 10, {}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "counting.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    return tmp_path


def acting(folder: Path, address: BrokerAddress, fleet: str) -> Program:
    flags = ("--allow-env", "counting", "--state", str(folder / "board"), "--keep-policy-every-s", "0")
    return board(folder, address, fleet, "b1", *flags)


def learning(folder: Path, address: BrokerAddress, fleet: str) -> Program:
    kwargs = f'{{folder = "{folder}"}}'
    return learner(folder, address, fleet, "--env-id", "counting:Counting", "--env-kwargs", kwargs)


def steps(folder: Path) -> int:
    path = folder / "steps"
    return path.stat().st_size if path.exists() else 0


def nowhere() -> BrokerAddress:
    return BrokerAddress("127.0.0.1", free_port())


def train(folder: Path, mosquitto: RunningBroker, fleet: str, wait_until: Callable[..., None]) -> None:
    """Have a board prove a policy and keep it; it is killed, and the learner ends."""
    with learning(folder, mosquitto.address, fleet), acting(folder, mosquitto.address, fleet) as agent:
        wait_until((folder / "board/b1/policy.frame").exists, timeout_s=30, what="a policy that is kept")
        wait_until(lambda: steps(folder) > 500, what="steps")
        agent.kill()
    (folder / "steps").unlink()


def test_a_killed_board_acts_again_with_no_broker_to_be_found(
    mosquitto: RunningBroker, fleet_name: str, folder: Path, wait_until: Callable[..., None]
):
    train(folder, mosquitto, fleet_name, wait_until)
    with acting(folder, nowhere(), fleet_name) as agent:
        wait_until(lambda: steps(folder) > 100, timeout_s=20, what="steps without a network")
    assert "Traceback" not in agent.said()


@pytest.mark.parametrize("name", ["run.frame", "policy.frame"])
@pytest.mark.parametrize("damage", ["empty", "torn", "flipped", "gone"])
def test_what_cannot_be_read_is_counted_and_the_board_waits_for_the_learner(
    mosquitto: RunningBroker, fleet_name: str, folder: Path, wait_until: Callable[..., None], name: str, damage: str
):
    train(folder, mosquitto, fleet_name, wait_until)
    path = folder / "board" / "b1" / name
    whole = path.read_bytes()
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "torn":
            path.write_bytes(whole[: len(whole) // 2])
        case "flipped":
            path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        case _:
            path.unlink()
    with (
        Collector(mosquitto.address, fleet=fleet_name, history_path=None) as collector,
        acting(folder, mosquitto.address, fleet_name) as agent,
    ):
        if damage != "gone":
            wait_until(
                lambda: any(
                    b.telemetry is not None and b.telemetry.counters.get("state_unreadable", 0)
                    for b in collector.snapshot().boards
                ),
                timeout_s=20,
                what="the counter",
            )
        with learning(folder, mosquitto.address, fleet_name):
            wait_until(lambda: steps(folder) > 100, timeout_s=30, what="steps with the learner's own")
    assert "Traceback" not in agent.said()


def test_a_board_that_remembers_takes_a_run_of_a_new_broker_and_learner(
    mosquitto: RunningBroker,
    amqtt_broker: RunningBroker,
    fleet_name: str,
    folder: Path,
    wait_until: Callable[..., None],
):
    train(folder, mosquitto, fleet_name, wait_until)
    (folder / "state").rename(folder / "another learner's")
    kept = (folder / "board/b1/run.frame").read_bytes()
    with learning(folder, amqtt_broker.address, fleet_name), acting(folder, amqtt_broker.address, fleet_name):
        wait_until(lambda: (folder / "board/b1/run.frame").read_bytes() != kept, timeout_s=30, what="the new run")
        before = steps(folder)
        wait_until(lambda: steps(folder) > before + 100, timeout_s=30, what="steps in it")


def test_a_folder_that_cannot_be_written_is_counted_and_nothing_else(
    mosquitto: RunningBroker, fleet_name: str, folder: Path, wait_until: Callable[..., None]
):
    (folder / "board").write_bytes(b"a file where a folder should be")
    with learning(folder, mosquitto.address, fleet_name), acting(folder, mosquitto.address, fleet_name) as agent:
        wait_until(lambda: steps(folder) > 100, timeout_s=30, what="steps")
    assert "cannot" in agent.said()
    assert "Traceback" not in agent.said()
