"""A translator between a fleet of boards and a fleet of their learner: each hears the other in another version.

Every message passes: `later` adds fields that nobody knows, in headers of frames, bodies and windows too; `earlier`
leaves out fields that have a default, as far as the rest makes sense without them.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final, Self

import msgpack
import zstandard

from edgerl.broker import RunningBroker
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.topics import FleetTopics

Fields = dict[str, Any]
Rewrite = Callable[[str, Fields], Fields]

_TO_BOARDS: Final = ("run", "policy/+", "learner", "board/+/down/ack", "board/+/down/command")
_TO_LEARNER: Final = (
    "board/+/up/trajectory",
    "board/+/up/telemetry",
    "board/+/up/reply",
    "board/+/up/log",
    "board/+/status",
)
_RETAINED: Final = frozenset({"run", "policy", "learner", "status"})
_FRAMES: Final = frozenset({"run", "policy", "command"})
_DISPENSABLE: Final[dict[str, tuple[str, ...]]] = {
    "header": ("issued_monotonic_ns", "kernel_boot_id"),
    "learner": ("policy_lag", "steps_per_s", "problem", "return_mean_100", "target_return", "episodes"),
    "telemetry": ("sketches", "health", "highest_version_seen"),
    "status": ("runtime", "kernel_boot_id", "workers", "problem"),
    "window": ("held_steps",),
}


def later(_kind: str, fields: Fields) -> Fields:
    """As a later version might say it."""
    return fields | {"from_the_future": {"a": [1, None, b"x"], "b": "y"}, "zz": 7}


def earlier(kind: str, fields: Fields) -> Fields:
    """As an earlier version might have said it."""
    return {name: value for name, value in fields.items() if name not in _DISPENSABLE.get(kind, ())}


class Translator:
    """A context manager: translates while it is entered.

    Args:
        broker: Where both fleets are.
        boards: The fleet of the boards.
        learner: The fleet of the learner.
        rewrite: Takes a kind of message and its fields, and returns other fields.

    Attributes:
        translated: Messages by kind.
    """

    def __init__(self, broker: RunningBroker, *, boards: str, learner: str, rewrite: Rewrite) -> None:
        self._rewrite = rewrite
        self._stack = ExitStack()
        self.translated: Counter[str] = Counter()
        self._sides = {
            boards: self._connection(broker, boards, learner, _TO_LEARNER),
            learner: self._connection(broker, learner, boards, _TO_BOARDS),
        }

    def __enter__(self) -> Self:
        for side in self._sides.values():
            self._stack.enter_context(side)
        for side in self._sides.values():
            side.wait_connected(15)
        return self

    def __exit__(self, *_: object) -> None:
        for side in self._sides.values():
            side.raise_failure()
        self._stack.close()

    def _connection(self, broker: RunningBroker, source: str, target: str, topics: tuple[str, ...]) -> MqttConnection:
        root = FleetTopics(source).run.removesuffix("run")

        def pass_on(topic: str, payload: bytes) -> None:
            kind = topic.removeprefix(root).split("/")
            kind = kind[3] if kind[0] == "board" and len(kind) > 3 else kind[2] if kind[0] == "board" else kind[0]
            new = FleetTopics(target).run.removesuffix("run") + topic.removeprefix(root)
            self.translated[kind] += 1
            self._sides[target].publish(new, self._translate(kind, payload), retain=kind in _RETAINED)

        subscriptions = [Subscription(root + topic, 1, pass_on) for topic in topics]
        return MqttConnection(broker.address, client_id=f"translator-{source}", subscriptions=subscriptions)

    def _translate(self, kind: str, payload: bytes) -> bytes:
        fields = msgpack.unpackb(payload)
        if kind in _FRAMES:
            fields = self._frame(kind, fields)
        elif kind == "trajectory":
            fields["body"] = self._window(fields["body"])
        return msgpack.packb(self._rewrite(kind, fields))

    def _frame(self, kind: str, fields: Fields) -> Fields:
        header = msgpack.unpackb(fields["header"])
        if kind != "policy":  # else a model, which has its own version
            fields["body"] = msgpack.packb(self._rewrite("body", msgpack.unpackb(fields["body"])))
            header |= {"size": len(fields["body"]), "sha256": hashlib.sha256(fields["body"]).digest()}
        return fields | {"header": msgpack.packb(self._rewrite("header", header))}

    def _window(self, body: bytes) -> bytes:
        plain = zstandard.ZstdDecompressor().decompressobj().decompress(body)
        return zstandard.ZstdCompressor().compress(msgpack.packb(self._rewrite("window", msgpack.unpackb(plain))))
