"""A teacher of one board: publishes policies that tell by their actions which one acts, sound and unsound ones."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pytest
from fleet_processes import Program, board
from msgspec import to_builtins

from compressor import CompressionRecipe, Layer, PolicyGraph, Precision, compress
from edgerl.broker import RunningBroker
from fleet_monitor.collector import Collector
from fleet_protocol.address import BrokerAddress
from fleet_protocol.codec import encode
from fleet_protocol.messages import RunSpec, Telemetry
from fleet_protocol.mqtt import MqttConnection
from fleet_protocol.signing import seal_frame
from fleet_protocol.spaces import BoxSpec, DiscreteSpec
from fleet_protocol.topics import FleetTopics

BOARD: Final = "b1"
ACTIONS: Final = 10
FAR: Final = 200.0
"""What the environment shows, and the checker never tries: that is where some policies go wrong."""
_ENVIRONMENT: Final = """
from pathlib import Path
import gymnasium
import numpy as np


class Telling(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(10)

    def __init__(self, folder, far=False):
        self.folder, self.sight = Path(folder), np.full(2, 200.0 if far else 0.0, np.float32)

    def reset(self, *, seed=None, options=None):
        self.age = 0
        return self.sight, {}

    def step(self, action):
        self.age += 1
        with (self.folder / "actions").open("ab", buffering=0) as file:
            file.write(b"%d" % action)
        return self.sight, 1.0, False, self.age == 10, {}
"""


def policy_file(
    version: int,
    *,
    wrong: str = "",
    beyond: float = 100.0,
    hidden: int = 2,
    normalised: bool = False,
    precision: Precision = Precision.FLOAT32,
    **changes: Any,
) -> bytes:
    """A policy that chooses the action `version % 10`, but one time in a thousand.

    Args:
        version: Its version.
        wrong: What becomes of its logits far out: `nan` or `saturated`; empty for a sound one.
        beyond: Where far out begins.
        hidden: Its size.
        normalised: It begins with a SUB and a MUL.
        precision: As `compress` takes it.
        changes: Of what the file says of itself.
    """
    slope = {"": 0.0, "nan": 3e38, "saturated": 1e3}[wrong]
    torso = Layer(np.eye(hidden, 2, dtype=np.float32), np.full(hidden, -beyond, np.float32), "relu")
    weight = np.zeros((ACTIONS, hidden), np.float32)
    weight[0, :2] = slope
    logits = Layer(weight, np.where(np.arange(ACTIONS) == version % ACTIONS, 9.0, 0.0).astype(np.float32))
    metadata: dict[str, object] = {
        "run_id": "r",
        "policy_version": version,
        "head": "categorical",
        "observation": to_builtins(BoxSpec(shape=(2,), dtype="float32")),
        "action": to_builtins(DiscreteSpec(n=ACTIONS)),
        "recipe": str(precision),
        "wire_scale": 0.1,
    }
    shift, scale = (np.zeros(2, np.float32), np.ones(2, np.float32)) if normalised else (None, None)
    graph = PolicyGraph((torso,), {"logits": logits}, observation_shift=shift, observation_scale=scale)
    return compress(graph, CompressionRecipe(precision), metadata=metadata | changes).model


class Teacher:
    """A broker's worth of policies, and one board that acts with them; a context manager.

    Args:
        folder: The test's own.
        broker: A real one.
        fleet: Its name.
        wait_until: Waits for a condition.
        far: The environment shows what the checker never tries.
    """

    def __init__(
        self, folder: Path, broker: RunningBroker, fleet: str, wait_until: Callable[..., None], *, far: bool = False
    ) -> None:
        (folder / "telling.py").write_text(_ENVIRONMENT, encoding="utf-8")
        self.folder = folder
        self._address = broker.address
        self._fleet = fleet
        self._topics = FleetTopics(fleet)
        self._wait_until = wait_until
        self._run = RunSpec(
            run_id="r",
            generation=1,
            env_id="telling:Telling",
            env_kwargs={"folder": str(folder), "far": far},
            unroll_length=16,
            copies=1,
            max_in_flight=0,
            max_age_s=3600.0,
        )
        self._connection = MqttConnection(broker.address, client_id="teacher", subscriptions=[])
        self._collector = Collector(broker.address, fleet=fleet, history_path=None)

    def __enter__(self) -> Self:
        self._connection.start()
        self._connection.wait_connected(15)
        self._collector.__enter__()
        self._collector.wait_connected(15)
        self.send(self._topics.run, seal_frame(encode(self._run), kind="run", version=1, run_id="r"))
        return self

    def __exit__(self, *details: object) -> None:
        self._collector.__exit__(*details)
        self._connection.close()

    def act(self, *flags: str, address: BrokerAddress | None = None) -> Program:
        """Start the board."""
        own = ("--allow-env", "telling", "--keep-policy-every-s", "0", "--spill-after-s", "3600", *flags)
        return board(self.folder, address or self._address, self._fleet, BOARD, *own)

    def send(self, topic: str, payload: bytes) -> None:
        """Publish, retained."""
        assert self._connection.publish(topic, payload, retain=True)
        assert self._connection.flush(15)

    def send_policy(self, payload: bytes) -> None:
        """Publish whatever it is where policies come from."""
        self.send(self._topics.policy("all"), payload)

    def frame(self, version: int, model: bytes | None = None) -> bytes:
        """A policy's frame, with a sound policy where nothing else is given."""
        return seal_frame(model or policy_file(version), kind="policy", version=version, run_id="r")

    def publish(self, version: int, model: bytes | None = None) -> None:
        """Publish a policy."""
        self.send_policy(self.frame(version, model))

    def told(self) -> Telemetry | None:
        """The board's last telemetry."""
        seen = [one.telemetry for one in self._collector.snapshot().boards if one.board_id == BOARD]
        return seen[0] if seen else None

    def count(self, name: str) -> int:
        """A counter of the board."""
        told = self.told()
        return told.counters.get(name, 0) if told else 0

    def wait_for_count(self, name: str, count: int = 1) -> None:
        """Wait until the board has counted so many."""
        self._wait_until(lambda: self.count(name) >= count, timeout_s=90, what=f"{name} {count}")

    def actions(self) -> bytes:
        """All actions since `forget_actions`, one digit each."""
        path = self.folder / "actions"
        return path.read_bytes() if path.exists() else b""

    def forget_actions(self) -> None:
        """Look only at what comes from now on."""
        (self.folder / "actions").unlink(missing_ok=True)

    def acting(self) -> int:
        """The action of most of the last steps: the acting version's last digit; -1 before there are enough."""
        last = self.actions()[-50:]
        digit = max(b"0123456789", key=last.count)
        return digit - ord("0") if len(last) == 50 and last.count(bytes([digit])) >= 45 else -1

    def wait_until_acting(self, version: int) -> None:
        """Wait until a policy acts."""
        self._wait_until(lambda: self.acting() == version % ACTIONS, timeout_s=90, what=f"policy {version} acting")

    def wait_until_kept(self, version: int) -> None:
        """Wait until a policy has proved itself and is on disk."""
        path = self.folder / "boards" / BOARD / "policy.frame"
        frame = self.frame(version)[-1000:]  # the body's end; headers tell the time
        self._wait_until(
            lambda: path.exists() and path.read_bytes().endswith(frame), timeout_s=90, what="a kept policy"
        )

    def die(self, program: Program) -> None:
        """Wait for the agent's death, and for that of its children."""
        children = [pid for module in ("edge_actor.worker", "edge_actor.checker") for pid in _children(program, module)]
        program.process.wait(90)
        self.wait_until_gone(children)

    def wait_until_gone(self, pids: list[int]) -> None:
        """Wait for the end of processes that are nobody's children any more."""
        self._wait_until(
            lambda: not any(Path(f"/proc/{pid}/cmdline").exists() and _is_ours(pid) for pid in pids),
            timeout_s=60,
            what="the end of the agent's children",
        )


def _children(program: Program, module: str) -> list[int]:
    try:
        return program.children(module)
    except OSError:  # it is gone already
        return []


def _is_ours(pid: int) -> bool:
    try:
        return b"edge_actor" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.fixture
def python_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own folder, from where the board may import its environment."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    return tmp_path
