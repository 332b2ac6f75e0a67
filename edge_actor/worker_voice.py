"""What a worker says: its measurements, its windows, its answers; from whichever of its threads."""

import os
import threading
from multiprocessing.connection import Connection

from edge_actor.rollout import Rollout, Timings
from edge_actor.worker_messages import FromWorker, WindowDone
from fleet_protocol.codec import encode
from fleet_protocol.sketch import LatencySketch


class WorkerVoice:
    """The worker's end of the pipe, for writing.

    Args:
        pipe: To the supervisor.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._sketches: dict[str, LatencySketch] = {}

    def note(self, name: str, value: float) -> None:
        """Add one measurement; it goes out with the next window."""
        with self._lock:
            self._sketches.setdefault(name, LatencySketch()).add(value)

    def send_window(self, body: bytes, timings: Timings, rollout: Rollout, *, env_steps: int) -> None:
        """Send a packed window with all that was measured and counted since the one before."""
        with self._lock:
            for name, values in timings.by_name().items():
                self._sketches.setdefault(name, LatencySketch()).add_many(values / 1e3)
            sketches = {name: sketch.to_state() for name, sketch in self._sketches.items()}
            self._sketches = {}
        counters, warnings = rollout.take_notes()
        self.send(WindowDone(body=body, env_steps=env_steps, sketches=sketches, counters=counters, warnings=warnings))

    def send(self, message: FromWorker) -> None:
        """Send a message; without a supervisor there is nothing left to do."""
        try:
            with self._lock:
                self._pipe.send_bytes(encode(message))
        except OSError:
            os._exit(0)  # whichever thread noticed, the other may hang
