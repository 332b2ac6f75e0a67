"""Environments that hang, fail and keep a clock, on a real board: counted, replaced, closed; the board stays."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fleet_processes import Program, board

from compressor import CompressionRecipe, Precision, compress
from compressor.layer import Layer
from compressor.policy_graph import PolicyGraph
from edgerl.broker import RunningBroker, start_broker
from fleet_monitor.collector import Collector
from fleet_protocol.address import BrokerAddress
from fleet_protocol.codec import encode
from fleet_protocol.messages import RunSpec
from fleet_protocol.mqtt import MqttConnection
from fleet_protocol.signing import seal_frame
from fleet_protocol.spaces import BoxSpec, DiscreteSpec
from fleet_protocol.topics import FleetTopics

MODULE = """
import time
from pathlib import Path

import gymnasium
import numpy as np


class Troublesome(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, folder, trouble, at=0):
        self.folder, self.trouble, self.at = Path(folder), trouble, at
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.at and self.steps % self.at == 0:
            if self.trouble == "hang":
                time.sleep(10_000)
            if self.trouble == "raise":
                raise OSError("loose contact")
        with (self.folder / "actions").open("ab", buffering=0) as actions:
            actions.write(b"%d" % action)
        return np.zeros(2, np.float32), 1.0, False, self.steps % 100 == 0, {}

    def close(self):
        (self.folder / "closed").touch()

"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "troublesome.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def collector(mosquitto: RunningBroker, fleet_name: str) -> Iterator[Collector]:
    with Collector(mosquitto.address, fleet=fleet_name, history_path=None) as listening:
        listening.wait_connected(10)
        yield listening


def policy_file(version: int) -> bytes:
    zeros = np.zeros((2, 2), np.float32)
    graph = PolicyGraph(torso=(Layer(zeros, zeros[0], "tanh"),), heads={"logits": Layer(zeros, zeros[0])})
    metadata = {
        "run_id": "r",
        "policy_version": version,
        "head": "categorical",
        "observation": msgspec.to_builtins(BoxSpec(shape=(2,), dtype="float32")),
        "action": msgspec.to_builtins(DiscreteSpec(n=2)),
    }
    return compress(graph, CompressionRecipe(Precision.FLOAT32), metadata=metadata).model


def announce(address: BrokerAddress, fleet: str, run: RunSpec, *, version: int = 1) -> None:
    """What a learner would say: the run, and a policy."""
    topics = FleetTopics(fleet)
    with MqttConnection(address, client_id="teacher", subscriptions=[]) as connection:
        connection.wait_connected(10)
        frame = seal_frame(encode(run), kind="run", version=run.generation, run_id="r")
        assert connection.publish(topics.run, frame, retain=True)
        frame = seal_frame(policy_file(version), kind="policy", version=version, run_id="r", target="all")
        assert connection.publish(topics.policy("all"), frame, retain=True)
        assert connection.flush(10)


def make_run(folder: Path, trouble: str, *, at: int = 0, **changes: Any) -> RunSpec:
    kwargs: dict[str, Any] = {"folder": str(folder), "trouble": trouble, "at": at}
    defaults: dict[str, Any] = {"unroll_length": 8, "copies": 1, "max_in_flight": 0, "max_age_s": 3600.0}
    env_id = "troublesome:Troublesome"
    return RunSpec(run_id="r", generation=1, env_id=env_id, env_kwargs=kwargs, **{**defaults, **changes})


def counters_of(collector: Collector) -> dict[str, int]:
    seen = next((b for b in collector.snapshot().boards if b.board_id == "b1"), None)
    return dict(seen.telemetry.counters) if seen and seen.telemetry else {}


def acting(folder: Path, address: BrokerAddress, fleet: str, *flags: str) -> Program:
    return board(folder, address, fleet, "b1", "--allow-env", "troublesome", *flags)


def test_a_step_that_hangs_is_ended_after_the_stated_time_and_the_board_goes_on(
    mosquitto: RunningBroker, fleet_name: str, collector: Collector, module: Path, wait_until: Callable[..., None]
):
    announce(mosquitto.address, fleet_name, make_run(module, "hang", at=50))
    with acting(module, mosquitto.address, fleet_name, "--step-timeout-s", "0.7") as agent:
        wait_until(lambda: counters_of(collector).get("environment_hangs", 0) >= 2, timeout_s=40, what="two hangs")
        counters = counters_of(collector)
        assert counters["worker_restarts"] >= 2
        assert counters.get("policies_quarantined", 0) == 0
        assert agent.process.poll() is None
    assert "has not returned for 0.7 s" in agent.said()
    assert "Traceback" not in agent.said()


def test_faults_are_counted_and_named_and_their_copy_is_made_anew(
    mosquitto: RunningBroker, fleet_name: str, collector: Collector, module: Path, wait_until: Callable[..., None]
):
    announce(mosquitto.address, fleet_name, make_run(module, "raise", at=5, control_hz=200.0))
    with acting(module, mosquitto.address, fleet_name) as agent:
        wait_until(lambda: counters_of(collector).get("environment_faults", 0) >= 3, timeout_s=30, what="faults")
        assert counters_of(collector).get("worker_restarts", 0) == 0
    assert "loose contact" in agent.said()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_environment_is_closed_even_when_its_supervisor_was_killed(
    mosquitto: RunningBroker,
    fleet_name: str,
    collector: Collector,
    module: Path,
    number: signal.Signals,
    wait_until: Callable[..., None],
):
    announce(mosquitto.address, fleet_name, make_run(module, "none", control_hz=100.0))
    with acting(module, mosquitto.address, fleet_name) as agent:
        wait_until((module / "actions").exists, timeout_s=30, what="an action")
        os.kill(agent.process.pid, number)
        wait_until((module / "closed").exists, timeout_s=5, what="the closing")


def test_a_clocked_run_keeps_its_rate_while_its_broker_is_away_and_while_policies_change(
    fleet_name: str, module: Path, wait_until: Callable[..., None]
):
    """Ticks are counted by the environment itself; the broker is killed, and comes back."""
    hz = 100.0
    actions = module / "actions"

    def ticks() -> int:
        return actions.stat().st_size if actions.exists() else 0

    with start_broker(None) as broker:
        port = broker.address.port
        announce(broker.address, fleet_name, make_run(module, "none", control_hz=hz))
        agent = acting(module, broker.address, fleet_name)
        with agent:
            wait_until(lambda: ticks() > 20, timeout_s=30, what="the first ticks")
            broker.process.kill()
            before = ticks()
            wait_until(lambda: ticks() > before + 300, timeout_s=10, what="three seconds of ticks without a broker")
            with start_broker(port) as again:
                run = make_run(module, "none", control_hz=hz)
                with Collector(again.address, fleet=fleet_name, history_path=None) as collector:
                    for version in range(2, 12):
                        announce(again.address, fleet_name, run, version=version)
                    wait_until(
                        lambda: any(
                            b.telemetry is not None and b.telemetry.policy_version >= 11
                            for b in collector.snapshot().boards
                        ),
                        timeout_s=30,
                        what="the newest policy",
                    )
                    before = counters_of(collector).get("ticks", 0)
                    wait_until(lambda: counters_of(collector).get("ticks", 0) > before + 200, what="more windows")
                    counters = counters_of(collector)
    assert counters["ticks"] > 500
    assert counters.get("environment_faults", 0) == 0
    assert counters["reconnects"] >= 1
