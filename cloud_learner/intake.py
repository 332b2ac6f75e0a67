"""What comes from the boards: decoded, checked, counted, and handed on, on a thread of its own.

The network thread only hands over. Here every window passes one gate after the other: does it decode, is it of this
run, is it new, is it sound, is it recent enough, is it like what other boards send. Whoever fails a gate is counted
under its reason.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable
from typing import Final, Self

from cloud_learner.board_book import BoardBook
from cloud_learner.delivery_ledger import BootKey, DeliveryLedger
from cloud_learner.outliers import OutlierGate
from cloud_learner.trajectory_queue import QueuedWindow, TrajectoryQueue
from cloud_learner.window_checks import LARGEST_RETURN, check_window
from fleet_protocol.arrivals import Arrivals
from fleet_protocol.codec import BadMessage, decode
from fleet_protocol.commands import AtRest, CommandReply, EvaluationResult
from fleet_protocol.messages import Ranges, RunSpec, Status, Telemetry, TrajectoryMessage
from fleet_protocol.soundness import require_sound
from fleet_protocol.topics import PROTOCOL_VERSION, TopicAddress
from fleet_protocol.trajectory import Trajectory, unpack_trajectory

_log = logging.getLogger(__name__)

_COME_AGAIN: Final = frozenset({"trajectory", "telemetry"})
_MAX_WAITING_MESSAGES: Final = 100_000
_MAX_WAITING_BYTES: Final = 1_073_741_824
"""A quarter of it for windows: as much as a hardened broker keeps for us."""

Finish = Callable[[BootKey, int], None]
"""Acks one window at once."""


class Intake:
    """Turns payloads into queued windows and entries in the board book.

    Args:
        run: The run that is learned.
        ledger: Knows which windows are finished.
        windows: Takes the sound ones.
        book: Takes what boards say of themselves.
        ack: Called for windows that are finished already, or refused.
        current_version: The newest published policy version.
        max_policy_lag: A window whose newest step lags more is refused.
        state_size: Numbers in the memory's state; 0 for a run without a memory.

    Attributes:
        counters: Messages that could not be used, by reason.
        trajectory_bytes: Bytes of all trajectory messages of the run, topics included.
        trajectory_steps: Environment steps in the windows that decoded.
    """

    def __init__(
        self,
        run: RunSpec,
        *,
        ledger: DeliveryLedger,
        windows: TrajectoryQueue,
        book: BoardBook,
        ack: Finish,
        current_version: Callable[[], int],
        max_policy_lag: int,
        state_size: int = 0,
    ) -> None:
        self._run = run
        self._ledger = ledger
        self._windows = windows
        self._book = book
        self._ack = ack
        self._current_version = current_version
        self._max_policy_lag = max_policy_lag
        self._state_size = state_size
        self._arrivals: Arrivals[tuple[TopicAddress, bytes, int]] = Arrivals(
            max_messages=_MAX_WAITING_MESSAGES, max_bytes=_MAX_WAITING_BYTES
        )
        self._failure: Exception | None = None
        self._outliers = OutlierGate()
        self.counters: Counter[str] = Counter()
        self.trajectory_bytes = 0
        self.trajectory_steps = 0
        self._thread = threading.Thread(target=self._work, name="intake", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._arrivals.end()
        self._thread.join(timeout=5)

    def hand_over(self, address: TopicAddress, payload: bytes, topic_bytes: int) -> None:
        """Take a payload from the network thread; where boards send faster than it is read, it is dropped, counted."""
        arrival = (address, payload, topic_bytes)
        if not self._arrivals.put(arrival, size_bytes=len(payload), comes_again=address.kind in _COME_AGAIN):
            self.counters["overrun"] += 1

    def raise_failure(self) -> None:
        """Raise what went wrong on the intake thread: a programming error must crash the learner."""
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while (arrival := self._arrivals.get()) is not None:
            try:
                self._take(*arrival)
            except BadMessage as error:
                self._count("decode_errors", f"{arrival[0].kind} of {arrival[0].subject}: {error}")
            except Exception as error:  # noqa: BLE001 - raised again by raise_failure
                self._failure = error
                return

    def _take(self, address: TopicAddress, payload: bytes, topic_bytes: int) -> None:
        if address.protocol != PROTOCOL_VERSION:
            self._count("protocol_mismatch", f"{address.subject} speaks protocol {address.protocol}")
            return
        match address.kind:
            case "trajectory":
                self._take_trajectory(address.subject, payload, topic_bytes)
            case "telemetry":
                telemetry = decode(payload, Telemetry)
                self._require_sender(address, telemetry.board_id)
                require_sound(telemetry)
                self._book.take_telemetry(telemetry)
            case "status":
                status: Status = decode(payload, Status)
                self._require_sender(address, status.board_id)
                self._book.take_status(status)
            case "reply":
                reply = decode(payload, CommandReply)
                self._require_sender(address, reply.board_id)
                _check_reply(reply)
                self._book.take_reply(reply)
            case _:
                return

    def _take_trajectory(self, board_id: str, payload: bytes, topic_bytes: int) -> None:
        message = decode(payload, TrajectoryMessage)
        self._require_sender(TopicAddress("trajectory", board_id), message.board_id)
        if message.run_id != self._run.run_id:
            self.counters["other_run"] += 1
            return
        boot = (message.board_id, message.boot_id)
        admission = self._ledger.admit(boot, message.seq, oldest_seq=message.oldest_seq)
        if admission == "finished":
            self._ack(boot, message.seq)
        if admission != "new":
            return
        try:
            trajectory = self._checked(unpack_trajectory(message.body))
        except BadMessage as error:
            self._refuse(boot, message.seq, "invalid", str(error))
            return
        self.trajectory_bytes += len(payload) + topic_bytes
        self.trajectory_steps += trajectory.rewards.size
        self._admit(QueuedWindow(boot, message.seq, trajectory))

    def _admit(self, window: QueuedWindow) -> None:
        newest, current = int(window.trajectory.policy_versions.max()), self._current_version()
        if current - newest > self._max_policy_lag:
            self._refuse(window.boot, window.seq, "stale", f"version {newest} acted, and {current} is current")
            return
        oddity = self._outliers.judge(window.boot[0], window.trajectory)
        if oddity is not None:
            self._book.note_oddity(window.boot[0], oddity)
            self._refuse(window.boot, window.seq, "outlier", oddity)
            return
        displaced = self._windows.put(window)
        if displaced is not None:
            self._refuse(displaced.boot, displaced.seq, "queue_full", "the learner is behind")

    def _checked(self, trajectory: Trajectory) -> Trajectory:
        spaces = self._book.spaces
        if spaces is None:
            raise BadMessage("a window came before any board told the run's spaces")
        check_window(trajectory, self._run, spaces, state_size=self._state_size)
        if trajectory.policy_versions.max() > self._current_version():
            raise BadMessage("a policy version acted that was never published")
        return trajectory

    def _refuse(self, boot: BootKey, seq: int, reason: str, sentence: str) -> None:
        self._ledger.mark_refused(boot, seq, reason)
        self._ack(boot, seq)
        self._count(f"refused_{reason}", f"window {seq} of {boot[0]} refused ({reason}): {sentence}")

    def _require_sender(self, address: TopicAddress, board_id: str) -> None:
        if board_id != address.subject:
            raise BadMessage(f"it says that it comes from {board_id!r}")

    def _count(self, reason: str, sentence: str) -> None:
        self.counters[reason] += 1
        if self.counters[reason] in (1, 10, 100) or self.counters[reason] % 1000 == 0:
            _log.warning("%s (%d so far)", sentence, self.counters[reason])


def _check_reply(reply: CommandReply) -> None:
    match reply.result:
        case AtRest() as result:
            for rest in (result, *result.earlier.values()):
                for ranges in (rest.produced, rest.outbox, *rest.dropped.values()):
                    _check_ranges(ranges)
        case EvaluationResult() as result:
            if not all(abs(value) < LARGEST_RETURN for value in result.returns):  # so, because of nan
                raise BadMessage(f"evaluation: expected returns below {LARGEST_RETURN:g}")
        case None:
            pass


def _check_ranges(ranges: Ranges) -> None:
    # Boards send them in order; sorting a million that are not would keep everybody waiting.
    before = -1
    for first, last in ranges:
        if not before < first <= last:
            raise BadMessage(f"at_rest: expected ascending ranges, got {first} to {last} after {before}")
        before = last
