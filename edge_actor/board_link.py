"""The board's side of MQTT: what it hears becomes events in an inbox, what it says is encoded here."""

import queue
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from fleet_protocol.address import BrokerAddress
from fleet_protocol.codec import encode
from fleet_protocol.commands import CommandReply
from fleet_protocol.messages import Birth, Death, LogLine, Telemetry, TrajectoryMessage
from fleet_protocol.mqtt import MqttConnection, Subscription, Will
from fleet_protocol.signing import FrameRefused
from fleet_protocol.topics import PROTOCOL_VERSION, FleetTopics, TopicAddress

ALL_GROUPS: Final = "#"
_FLUSH_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Connected:
    """A new session has begun."""

    session_id: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message came on one of this fleet's topics, undecoded."""

    address: TopicAddress
    payload: bytes


class Inbox:
    """Where the network thread leaves events and the supervisor finds them; unbounded, for it is emptied at once."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Connected | Arrived] = queue.SimpleQueue()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """Readable while there are events: the supervisor waits on this and on its workers' pipes."""
        return self._reader.fileno()

    def put(self, event: Connected | Arrived) -> None:
        """Leave an event."""
        self._events.put(event)
        self.wake()

    def wake(self) -> None:
        """End a wait; safe in a signal handler."""
        with suppress(BlockingIOError):  # then enough wake-ups are waiting already
            self._writer.send(b"\0")

    def drain(self) -> list[Connected | Arrived]:
        """Take all events."""
        with suppress(BlockingIOError):
            self._reader.recv(65_536)
        events: list[Connected | Arrived] = []
        while not self._events.empty():
            events.append(self._events.get())
        return events

    def close(self) -> None:
        """Close the sockets."""
        self._reader.close()
        self._writer.close()


class BoardLink:
    """Everything that one board says to its fleet and hears from it.

    Args:
        address: The broker.
        fleet: The fleet's name.
        board_id: This board.
        boot_id: This start of the agent.
        inbox: Where events go.
    """

    def __init__(self, address: BrokerAddress, *, fleet: str, board_id: str, boot_id: str, inbox: Inbox) -> None:
        self._topics = FleetTopics(fleet)
        self._board_id = board_id
        self._boot_id = boot_id
        self._inbox = inbox
        topics = self._topics
        self._policies = topics.policy(ALL_GROUPS)
        # A policy is taken at QoS 0: the newest is retained, so a lost one is replaced, never queued.
        filters = [
            (topics.run, 1),
            (self._policies, 0),
            (topics.any_learner, 1),
            (topics.status(board_id), 1),
            (topics.down(board_id, "+"), 1),
        ]
        self._connection = MqttConnection(
            address,
            client_id=board_id,
            subscriptions=[Subscription(topic_filter, qos, self._hear) for topic_filter, qos in filters],
            make_will=lambda session_id: Will(
                topics.status(board_id), encode(self._death(session_id, reason_lost=True))
            ),
            on_connect=lambda session_id: inbox.put(Connected(session_id)),
        )

    def start(self) -> None:
        """Begin to connect."""
        self._connection.start()

    @property
    def is_connected(self) -> bool:
        """There is a session."""
        return self._connection.is_connected

    @property
    def reconnects(self) -> int:
        """Sessions after the first."""
        return max(0, self._connection.connects - 1)

    def raise_failure(self) -> None:
        """Raise what went wrong on the network thread."""
        self._connection.raise_failure()

    def hear_policies_of(self, group: str) -> None:
        """Hear the policies of one group, or of `ALL_GROUPS`, and no others."""
        topic_filter = self._topics.policy(group)
        self._connection.replace(self._policies, Subscription(topic_filter, 0, self._hear))
        self._policies = topic_filter

    def ask_again(self) -> None:
        """Have the broker send once more all that it retains for this board."""
        self._connection.resubscribe()

    def send_birth(self, birth: Birth) -> None:
        """Announce the board, retained."""
        self._connection.publish(self._topics.status(self._board_id), encode(birth), retain=True)

    def send_trajectory(self, message: TrajectoryMessage) -> bool:
        """Send a window; False when there is no session."""
        return self._connection.publish(self._topics.up(self._board_id, "trajectory"), encode(message))

    def send_telemetry(self, telemetry: Telemetry) -> None:
        """Send telemetry: cumulative, so a lost one does not matter."""
        self._connection.publish(self._topics.up(self._board_id, "telemetry"), encode(telemetry), qos=0)

    def send_reply(self, reply: CommandReply) -> None:
        """Answer a command."""
        self._connection.publish(self._topics.up(self._board_id, "reply"), encode(reply))

    def send_log(self, line: LogLine) -> None:
        """Send a log line."""
        self._connection.publish(self._topics.up(self._board_id, "log"), encode(line), qos=0)

    def close(self, session_id: str) -> None:
        """Say a clean goodbye and disconnect."""
        if session_id and self.is_connected:
            death = self._death(session_id, reason_lost=False)
            self._connection.publish(self._topics.status(self._board_id), encode(death), retain=True)
            self._connection.flush(_FLUSH_S)
        self._connection.close()

    def _death(self, session_id: str, *, reason_lost: bool) -> Death:
        return Death(
            board_id=self._board_id,
            boot_id=self._boot_id,
            session_id=session_id,
            reason="lost" if reason_lost else "clean",
        )

    def _hear(self, topic: str, payload: bytes) -> None:
        address = self._topics.parse(topic)
        if address is not None:
            self._inbox.put(Arrived(address, payload))


def require_our_protocol(address: TopicAddress) -> None:
    """Refuse what a learner of another protocol says.

    Raises:
        FrameRefused: It speaks another version.
    """
    if address.protocol != PROTOCOL_VERSION:
        raise FrameRefused(
            "protocol_mismatch",
            f"a learner speaks protocol {address.protocol} and this board {PROTOCOL_VERSION}: "
            "install the same EdgeRL on both",
        )
