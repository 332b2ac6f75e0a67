"""A learner of the test's own: it publishes policies that can be told apart by what they do, and keeps every window.

The policy of a version has the same logits whatever it observes, and other ones than any version near it. So each step
of a window tells by itself which policy acted, and that is compared with the version that the window names (D6).
"""

import threading
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from msgspec import to_builtins
from numpy.typing import NDArray

from compressor import CompressionRecipe, Layer, PolicyGraph, Precision, compress
from fleet_protocol.address import BrokerAddress
from fleet_protocol.codec import decode, encode
from fleet_protocol.messages import Ack, RunSpec, TrajectoryMessage
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.signing import seal_frame
from fleet_protocol.spaces import BoxSpec, DiscreteSpec
from fleet_protocol.topics import FleetTopics
from fleet_protocol.trajectory import Trajectory, unpack_trajectory

WIRE_SCALE: Final = 0.05
GRID_LIMIT: Final = 127
LARGEST_LOGIT: Final = 3.0
RUN: Final = RunSpec(run_id="scripted", generation=1, env_id="Acrobot-v1", unroll_length=512, copies=4, max_in_flight=4)
"""Windows so long that acks are back before the next one is due: a board that waits swaps between two of them."""


def logit_of(version: int) -> float:
    """The second action's logit: 20 values in turn, each further from the others than the wire grid is coarse."""
    return 0.125 * (version % 20)


def policy_file(version: int) -> bytes:
    """A policy for Acrobot: six numbers in, three actions out, and nothing that it sees matters."""
    torso = Layer(np.zeros((4, 6), np.float32), np.zeros(4, np.float32), "tanh")
    logits = np.array([0.0, logit_of(version), LARGEST_LOGIT], np.float32)
    metadata: dict[str, object] = {
        "run_id": RUN.run_id,
        "policy_version": version,
        "head": "categorical",
        "observation": to_builtins(BoxSpec(shape=(6,), dtype="float32")),
        "action": to_builtins(DiscreteSpec(n=3)),
        "wire_scale": WIRE_SCALE,
        "frame_stack": 1,
    }
    graph = PolicyGraph(torso=(torso,), heads={"logits": Layer(np.zeros((3, 4), np.float32), logits)})
    return compress(graph, CompressionRecipe(Precision.FLOAT32), metadata=metadata).model


@dataclass(frozen=True)
class HeardWindow:
    """A window, and the highest version that was published when it came."""

    boot_id: str
    seq: int
    trajectory: Trajectory
    published: int


class ScriptedLearner:
    """Acks whatever comes; a context manager."""

    def __init__(self, address: BrokerAddress, fleet: str) -> None:
        self._topics = FleetTopics(fleet)
        self._lock = threading.Lock()
        self._windows: dict[tuple[str, int], HeardWindow] = {}
        self._published = 0
        self._frames: dict[int, bytes] = {}
        self._connection = MqttConnection(
            address,
            client_id="scripted-learner",
            subscriptions=[Subscription(self._topics.up("+", "trajectory"), 1, self._hear)],
        )

    def __enter__(self) -> Self:
        self._connection.start()
        self._connection.wait_connected(15)
        frame = seal_frame(encode(RUN), kind="run", version=RUN.generation, run_id=RUN.run_id)
        assert self._connection.publish(self._topics.run, frame, retain=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def publish(self, version: int) -> None:
        """Publish a policy; the same bytes where it was published before."""
        if version not in self._frames:
            body = policy_file(version)
            self._frames[version] = seal_frame(body, kind="policy", version=version, run_id=RUN.run_id)
        with self._lock:
            self._published = max(self._published, version)
        assert self._connection.publish(self._topics.policy("all"), self._frames[version], retain=True)

    def windows(self) -> list[HeardWindow]:
        """All windows, in the order in which each boot has produced them."""
        self._connection.raise_failure()
        with self._lock:
            return [self._windows[key] for key in sorted(self._windows)]

    def newest_acting(self) -> int:
        """The highest version that any window names; 0 before the first."""
        return max((int(window.trajectory.policy_versions.max()) for window in self.windows()), default=0)

    def _hear(self, topic: str, payload: bytes) -> None:
        message = decode(payload, TrajectoryMessage)
        window = HeardWindow(message.boot_id, message.seq, unpack_trajectory(message.body), self._published)
        with self._lock:
            self._windows.setdefault((message.boot_id, message.seq), window)
        address = self._topics.parse(topic)
        assert address is not None
        ack = Ack(boot_id=message.boot_id, finished=[(message.seq, message.seq)])
        self._connection.publish(self._topics.down(address.subject, "ack"), encode(ack))


def logits_that_acted(trajectory: Trajectory) -> NDArray[np.float64]:
    """The second action's logit at each step and copy, `[T, N]`, as it stands on the wire grid."""
    return trajectory.behavior_params[..., 0].astype(np.float64) * trajectory.wire_scale


def logits_that_are_named(trajectory: Trajectory) -> NDArray[np.float64]:
    """What the versions that the window names would have given on its grid, `[T, N]`."""
    exact = np.array([logit_of(int(version)) for version in trajectory.policy_versions])
    grid = np.rint(exact / trajectory.wire_scale).clip(-GRID_LIMIT, GRID_LIMIT)
    return np.repeat((grid * trajectory.wire_scale)[:, None], trajectory.copies, axis=1)
