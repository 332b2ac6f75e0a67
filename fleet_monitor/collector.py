"""Listens to a fleet and keeps its picture and its history up to date, on a thread of its own."""

import queue
import threading
import time
from pathlib import Path
from typing import Final, Self

from fleet_monitor.fleet import Fleet, FleetView
from fleet_monitor.history import History
from fleet_protocol.address import BrokerAddress
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.topics import FleetTopics, TopicAddress

_FLUSH_PERIOD_S: Final = 2.0
_POLL_S: Final = 0.2


class Collector:
    """A context manager: listens while it is entered.

    Args:
        address: The broker.
        fleet: The fleet's name.
        history_path: The SQLite file; None remembers nothing.

    Raises:
        ProgramError: The file cannot be used.
    """

    def __init__(self, address: BrokerAddress, *, fleet: str, history_path: Path | None) -> None:
        self._topics = FleetTopics(fleet)
        self._history = History(history_path) if history_path else None
        self._fleet = Fleet()
        self._lock = threading.Lock()
        self._arrivals: queue.SimpleQueue[tuple[TopicAddress, bytes] | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._connection = MqttConnection(
            address,
            client_id=f"monitor-{fleet}-{id(self):x}",
            subscriptions=[
                Subscription(topic_filter, 1, self._hear)
                for topic_filter in (
                    self._topics.learner,
                    self._topics.status("+"),
                    self._topics.up("+", "telemetry"),
                )
            ],
        )
        self._thread = threading.Thread(target=self._work, name="collector", daemon=True)

    def __enter__(self) -> Self:
        self._connection.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._arrivals.put(None)
        self._thread.join(timeout=5)
        if self._history is not None:
            self._history.__exit__(None, None, None)

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
        self._connection.raise_failure()
        if self._failure is not None:
            raise self._failure
        with self._lock:
            return self._fleet.view()

    def _hear(self, topic: str, payload: bytes) -> None:
        address = self._topics.parse(topic)
        if address is not None:
            self._arrivals.put((address, payload))

    def _work(self) -> None:
        try:
            self._collect()
        except Exception as error:  # noqa: BLE001 - raised again by snapshot
            self._failure = error

    def _collect(self) -> None:
        flush_due = time.monotonic() + _FLUSH_PERIOD_S
        listening = True
        while listening:
            try:
                arrival = self._arrivals.get(timeout=_POLL_S)
            except queue.Empty:
                arrival = ()
            if arrival is None:
                listening = False
            elif arrival:
                with self._lock:
                    self._fleet.take(*arrival)
            if time.monotonic() >= flush_due or not listening:
                flush_due = time.monotonic() + _FLUSH_PERIOD_S
                self._flush()

    def _flush(self) -> None:
        if self._history is None:
            return
        with self._lock:
            view, intervals = self._fleet.view(), self._fleet.intervals()
        self._history.write(view.boards, intervals)
