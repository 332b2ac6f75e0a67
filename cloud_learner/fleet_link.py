"""The learner's side of MQTT: what it says to its fleet, and the counters under which it commands boards."""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Self

from cloud_learner.delivery_ledger import BootKey
from fleet_protocol.address import BrokerAddress
from fleet_protocol.audit import AuditLog, AuditUnwritable
from fleet_protocol.clock import utc_milliseconds, utc_timestamp
from fleet_protocol.codec import BadMessage, decode, encode
from fleet_protocol.commands import Bench, Command, kind_of, words_of
from fleet_protocol.messages import Ack, LearnerReport, RunSpec
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.sequences import SequenceSet
from fleet_protocol.signing import FrameRefused, Signer, is_signed_otherwise, open_frame, seal_frame, sign_again
from fleet_protocol.signing_keys import SigningKeys
from fleet_protocol.topics import FleetTopics, TopicAddress

_log = logging.getLogger(__name__)

Handler = Callable[[TopicAddress, bytes, int], None]
_RETAINED_WAIT_S = 0.5
_COMMAND_VALID_S = 600.0


class FleetLink:
    """Everything that the learner says to its fleet.

    A broker may forget, so what is retained is published again on each connect.

    Args:
        address: The broker.
        fleet: The fleet's name.
        audit: Every command is in it before it is sent, and then its answer.
        keys: Sign what boards act on; None leaves it unsigned, for loopback.

    Attributes:
        announced_groups: Those that the newest heartbeat names.
    """

    def __init__(self, address: BrokerAddress, *, fleet: str, audit: AuditLog, keys: SigningKeys | None = None) -> None:
        self._audit = audit
        self._keys = keys
        self._retained_lock = threading.RLock()
        """The newest is kept and published in one go, so that an older one never follows it."""
        self._topics = FleetTopics(fleet)
        self._retained: dict[str, bytes] = {}
        self._handler: Handler | None = None
        self._backlog: list[tuple[TopicAddress, bytes, int]] = []
        self._lock = threading.Lock()
        self.announced_groups: frozenset[str] = frozenset()
        self._command_counter = 0
        self._heard_run = threading.Event()
        self._last_run: RunSpec | None = None
        self._last_report: LearnerReport | None = None
        topics = self._topics
        self._connection = MqttConnection(
            address,
            client_id=f"learner-{fleet}",
            subscriptions=[
                Subscription(topics.run, 1, self._hear_run),
                Subscription(topics.learner, 1, self._hear_report),
                *(
                    Subscription(topic_filter, 1, self._hear)
                    for topic_filter in (
                        topics.status("+"),
                        topics.up("+", "trajectory"),
                        topics.up("+", "telemetry"),
                        topics.up("+", "reply"),
                    )
                ),
            ],
            on_connect=lambda _session_id: self._publish_retained(),
        )

    def __enter__(self) -> Self:
        self._connection.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.flush(1.0)
        self._connection.close()

    def wait_connected(self, timeout_s: float) -> None:
        """Wait for the broker.

        Raises:
            ProgramError: It does not answer.
        """
        self._connection.wait_connected(timeout_s)

    def raise_failure(self) -> None:
        """Raise what went wrong on the network thread."""
        self._connection.raise_failure()

    def last_run(self) -> tuple[RunSpec | None, LearnerReport | None]:
        """What a learner before this one left on the broker; generations and versions must rise above it."""
        self._heard_run.wait(_RETAINED_WAIT_S)
        return self._last_run, self._last_report

    def deliver_to(self, handler: Handler) -> None:
        """Hand all that boards send to `handler`, on the network thread; what came before comes first."""
        with self._lock:
            self._handler = handler
            for arrival in self._backlog:
                handler(*arrival)
            self._backlog.clear()

    def signer(self) -> Signer | None:
        """What signs now; None without keys."""
        return self._keys.signer if self._keys else None

    def follow_keys(self) -> str:
        """Use keys that have been replaced, also for what is retained; returns what is wrong with the keys.

        A board that learns of a revocation drops what the revoked key has signed, and waits for it to come anew.
        """
        if self._keys is None:
            return ""
        self._keys.follow()
        signer = self._keys.signer
        with self._retained_lock:
            for topic, payload in list(self._retained.items()):
                if topic != self._topics.learner and is_signed_otherwise(payload, signer):
                    self._publish_and_keep(topic, sign_again(payload, signer))
        return self._keys.problem

    def publish_run(self, run: RunSpec) -> None:
        """Tell the boards what to do."""
        frame = seal_frame(
            encode(run),
            kind="run",
            version=run.generation,
            run_id=run.run_id,
            valid_s=10 * 365 * 86_400.0,
            signer=self.signer(),
        )
        self._publish_and_keep(self._topics.run, frame)

    def publish_policy(self, group: str, frame: bytes) -> None:
        """Publish a policy, whole."""
        self._publish_and_keep(self._topics.policy(group), frame)

    def publish_report(self, report: LearnerReport) -> None:
        """Beat; the groups that the report names are announced from then on."""
        self._publish_and_keep(self._topics.learner, encode(report))
        self.announced_groups = frozenset(report.versions)

    def send_acks(self, finished: list[tuple[BootKey, int]]) -> None:
        """Tell boards which of their windows are finished, coalesced into ranges."""
        by_boot: defaultdict[BootKey, SequenceSet] = defaultdict(SequenceSet)
        for boot, seq in finished:
            by_boot[boot].add(seq)
        for (board_id, boot_id), seqs in by_boot.items():
            ack = Ack(boot_id=boot_id, finished=seqs.ranges())
            self._connection.publish(self._topics.down(board_id, "ack"), encode(ack))

    def send_command(self, board_id: str, command: Command | Bench, *, run_id: str) -> int:
        """Command a board, and return the counter by which its reply is known.

        What the disk does not take into the audit is not sent: no reply comes, as if the command were lost on its way.
        """
        # One counter for each key and board, and no file: a clock rises over the learner's restarts too.
        self._command_counter = max(self._command_counter + 1, utc_milliseconds())
        try:
            self._audit.append(
                "command",
                issuer=self._issuer,
                board=board_id,
                counter=self._command_counter,
                command=words_of(command),
                expires_at=utc_timestamp() + _COMMAND_VALID_S,
            )
        except AuditUnwritable as error:
            _log.warning("board %s is not given a command (%s): %s", board_id, type(command).__name__, error)
            return self._command_counter
        frame = seal_frame(
            encode(command),
            kind=kind_of(command),
            version=self._command_counter,
            run_id=run_id,
            target=board_id,
            issuer=self._issuer,
            valid_s=_COMMAND_VALID_S,
            signer=self.signer(),
        )
        self._connection.publish(self._topics.down(board_id, kind_of(command)), frame)
        return self._command_counter

    def note_answer(self, board_id: str, counter: int, *, problem: str) -> None:
        """Put into the audit what became of a command."""
        try:
            self._audit.append("answer", issuer=self._issuer, board=board_id, counter=counter, problem=problem)
        except AuditUnwritable as error:
            _log.warning("the answer of board %s is not in the audit: %s", board_id, error)

    @property
    def _issuer(self) -> str:
        # A counter rises per issuer's key; without keys, each start of a learner is an issuer of its own.
        signer = self.signer()
        return signer.key.key_id if signer else f"learner-{id(self):x}"

    def _publish_and_keep(self, topic: str, payload: bytes) -> None:
        with self._retained_lock:
            self._retained[topic] = payload
            self._connection.publish(topic, payload, retain=True)

    def _publish_retained(self) -> None:
        with self._retained_lock:
            for topic, payload in self._retained.items():
                self._connection.publish(topic, payload, retain=True)

    def _hear(self, topic: str, payload: bytes) -> None:
        address = self._topics.parse(topic)
        if address is None:
            return
        with self._lock:
            if self._handler is None:
                self._backlog.append((address, payload, len(topic)))
            else:
                self._handler(address, payload, len(topic))

    def _hear_run(self, _topic: str, payload: bytes) -> None:
        try:
            _, body = open_frame(payload, kind="run", unsigned_allowed=True)
            self._last_run = decode(body, RunSpec)
        except (BadMessage, FrameRefused):
            return  # somebody's garbage: ours replaces it
        self._heard_run.set()

    def _hear_report(self, _topic: str, payload: bytes) -> None:
        try:
            self._last_report = self._last_report or decode(payload, LearnerReport)
        except BadMessage:
            return
