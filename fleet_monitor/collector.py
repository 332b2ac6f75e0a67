"""Listens to a fleet and keeps its picture and its history up to date, on a thread of its own."""

import logging
import queue
import threading
import time
import uuid
from pathlib import Path
from typing import Final, Self

from fleet_monitor.fleet import Fleet, FleetView
from fleet_monitor.history import History, NotWritten
from fleet_protocol.address import BrokerAddress
from fleet_protocol.arrivals import Arrivals
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.topics import FleetTopics, TopicAddress

_log = logging.getLogger(__name__)

_POLL_S: Final = 0.2
_END_WAIT_S: Final = 5.0
_BACKLOG: Final = 40_000
"""Messages that may wait, and bytes; a quarter of both for what comes again anyway. What has no room is counted."""
_COMES_AGAIN: Final = frozenset({"telemetry", "log"})

_BACKLOG_BYTES: Final = 268_435_456

_Arrival = tuple[TopicAddress, bytes]


class Collector:
    """A context manager: listens while it is entered.

    Args:
        address: The broker.
        fleet: The fleet's name.
        history_path: The SQLite file; None remembers nothing.
        flush_period_s: Seconds between writes to it: the length of an interval of latencies.
        keep_hours: Latencies older than this are deleted from it.

    Raises:
        ProgramError: The file cannot be used.
    """

    def __init__(
        self,
        address: BrokerAddress,
        *,
        fleet: str,
        history_path: Path | None,
        flush_period_s: float = 2.0,
        keep_hours: float = 48.0,
    ) -> None:
        topics = FleetTopics(fleet)
        self._topics = topics
        self._history = History(history_path, keep_hours=keep_hours) if history_path else None
        self._is_unwritten = False
        self._flush_period_s = flush_period_s
        self._fleet = Fleet()
        self._lock = threading.Lock()
        self._arrivals: Arrivals[_Arrival] = Arrivals(max_messages=_BACKLOG, max_bytes=_BACKLOG_BYTES)
        self._failure: Exception | None = None
        self._connection = MqttConnection(
            address,
            client_id=f"monitor-{fleet}-{uuid.uuid4().hex[:8]}",
            subscriptions=[
                Subscription(topics.learner, 1, self._hear),
                Subscription(topics.status("+"), 1, self._hear),
                Subscription(topics.up("+", "telemetry"), 0, self._hear),
                Subscription(topics.up("+", "log"), 0, self._hear),
            ],
        )
        self._thread = threading.Thread(target=self._work, name="collector", daemon=True)

    def __enter__(self) -> Self:
        self._connection.start()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._connection.close()
        self._arrivals.end()
        self._thread.join(timeout=_END_WAIT_S)
        if self._history is not None:
            self._history.close()
        if kind is None:
            self._raise_failure()  # the last flush may have failed

    def wait_connected(self, timeout_s: float) -> None:
        """Wait for the broker.

        Raises:
            ProgramError: It does not answer.
        """
        self._connection.wait_connected(timeout_s)

    def snapshot(self) -> FleetView:
        """The fleet now.

        Raises:
            Exception: What went wrong on the collector's threads.
        """
        self._raise_failure()
        with self._lock:
            return self._fleet.view()

    def _raise_failure(self) -> None:
        self._connection.raise_failure()
        if self._failure is not None:
            raise self._failure

    def _hear(self, topic: str, payload: bytes) -> None:
        address = self._topics.parse(topic)
        if address is None:
            return
        arrival = (address, payload)
        if not self._arrivals.put(arrival, size_bytes=len(payload), comes_again=address.kind in _COMES_AGAIN):
            with self._lock:
                self._fleet.ignore(f"{address.kind}_overrun")

    def _work(self) -> None:
        try:
            self._collect()
        except Exception as error:  # noqa: BLE001 - raised again by snapshot
            self._failure = error

    def _collect(self) -> None:
        flush_due = time.monotonic() + self._flush_period_s
        listening = True
        while listening:
            listening = self._take_next()
            if time.monotonic() >= flush_due or not listening:
                flush_due = time.monotonic() + self._flush_period_s
                self._flush()

    def _take_next(self) -> bool:
        """Take one message, or wait a little for one; False at the end."""
        try:
            arrival = self._arrivals.get(_POLL_S)
        except queue.Empty:
            return True
        if arrival is None:
            return False
        with self._lock:
            self._fleet.take(*arrival)
        return True

    def _flush(self) -> None:
        if self._history is None:
            return
        with self._lock:
            view, intervals = self._fleet.view(), self._fleet.intervals()
        try:
            self._history.write(view.boards, intervals)
        except NotWritten as error:
            self._note_unwritten(error)
        else:
            self._is_unwritten = False

    def _note_unwritten(self, error: NotWritten) -> None:
        """A disk that is full ends no monitor: these latencies are lost, counted, and the next are tried again."""
        with self._lock:
            self._fleet.ignore("history_unwritten")
        if not self._is_unwritten:
            _log.warning("%s; trying again with every flush", error)
        self._is_unwritten = True
