"""Listens to a whole fleet for a benchmark: notes silences and the boards' last words, and can pause all boards."""

import time
from collections import Counter
from collections.abc import Iterable
from typing import Self

from fleet_monitor.fleet import STALE_AFTER_S
from fleet_protocol.address import BrokerAddress
from fleet_protocol.codec import decode, encode
from fleet_protocol.commands import Pause
from fleet_protocol.messages import LearnerReport, Telemetry
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.signing import seal_frame
from fleet_protocol.topics import FleetTopics


class FleetEars:
    """Hears while it is entered.

    Args:
        address: The broker.
        fleet: The fleet's name.
        client_id: On a secured fleet that of a role that may hear all: `monitor`.

    Attributes:
        run_id: What the learner learns; empty until it was heard.
        telemetry: The newest of each board.
        late_heartbeats: Silences of the learner longer than two of its periods.
        stale: Silences of boards after which the monitor calls them stale, by board.
        longest_s: The longest silence of the learner, and that of any board.
    """

    def __init__(self, address: BrokerAddress, *, fleet: str, client_id: str = "ears") -> None:
        self._topics = FleetTopics(fleet)
        self._heard_at: dict[str, float] = {}
        self.run_id = ""
        self.telemetry: dict[str, Telemetry] = {}
        self.late_heartbeats = 0
        self.stale: Counter[str] = Counter()
        self.longest_s = {"learner": 0.0, "board": 0.0}
        self._connection = MqttConnection(
            address,
            client_id=client_id,
            subscriptions=[
                Subscription(self._topics.learner, 1, self._hear_learner),
                Subscription(self._topics.up("+", "telemetry"), 0, self._hear_board),
            ],
        )

    def __enter__(self) -> Self:
        self._connection.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._connection.raise_failure()

    def pause(self, boards: Iterable[str]) -> None:
        """Have boards stop producing."""
        body = encode(Pause(run_id=self.run_id))
        for board_id in boards:
            frame = seal_frame(body, kind="command", version=1, run_id=self.run_id, target=board_id, issuer="ears")
            self._connection.publish(self._topics.down(board_id, "command"), frame)

    def _hear_learner(self, _topic: str, payload: bytes) -> None:
        report = decode(payload, LearnerReport)
        self.run_id = report.run_id
        self.late_heartbeats += self._silence("learner", "learner") > 2 * report.heartbeat_s

    def _hear_board(self, _topic: str, payload: bytes) -> None:
        telemetry = decode(payload, Telemetry)
        self.telemetry[telemetry.board_id] = telemetry
        if self._silence(f"board {telemetry.board_id}", "board") > STALE_AFTER_S:
            self.stale[telemetry.board_id] += 1

    def _silence(self, who: str, kind: str) -> float:
        now = time.monotonic()
        silence_s = now - self._heard_at.get(who, now)
        self._heard_at[who] = now
        self.longest_s[kind] = max(self.longest_s[kind], silence_s)
        return silence_s
