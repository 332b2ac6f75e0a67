"""What the board notes about itself: counters, latencies, warnings; told to the fleet as cumulative telemetry."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from edge_actor.board_health import BoardHealth, PowerWatch
from edge_actor.outbox import Outbox
from edge_actor.policy_shelf import PolicyShelf
from edge_actor.workforce import Workforce
from fleet_protocol.clock import utc_timestamp
from fleet_protocol.messages import LogLine, SketchState, Telemetry
from fleet_protocol.sketch import LatencySketch

_log = logging.getLogger(__name__)

_SAME_WARNING_AGAIN_S: Final = 60.0
_WARNINGS_REMEMBERED: Final = 256


class Diary:
    """Cumulative since boot, so that a lost message loses nothing.

    Args:
        board_id: This board.
        boot_id: This start of the agent.
        period_s: Seconds between telemetry messages.
        send_log: Takes the lines that the fleet should see.
        health: Reads the board's sensors; by default this machine's.

    Attributes:
        counters: What happened, by name.
    """

    def __init__(
        self,
        board_id: str,
        boot_id: str,
        *,
        period_s: float,
        send_log: Callable[[LogLine], None],
        health: BoardHealth | None = None,
    ) -> None:
        self._board_id = board_id
        self._boot_id = boot_id
        self._period_s = period_s
        self._send_log = send_log
        self._health = health or BoardHealth()
        self._power_watch = PowerWatch()
        self._started_at = time.monotonic()
        self._due_at = 0.0
        self._sketches: dict[str, LatencySketch] = {}
        self._warned_at: dict[str, float] = {}
        self.counters: Counter[str] = Counter()

    def note(self, name: str, value: float) -> None:
        """Add one latency; its unit is in its name."""
        self._sketches.setdefault(name, LatencySketch()).add(value)

    def merge(self, sketches: Mapping[str, SketchState]) -> None:
        """Add what a worker measured."""
        for name, state in sketches.items():
            self._sketches.setdefault(name, LatencySketch()).merge(state)

    def count(self, name: str, sentence: str) -> None:
        """Count something that went wrong, and warn of it."""
        self.counters[name] += 1
        self.warn(sentence, about=name)

    def tell(self, name: str, sentence: str) -> None:
        """Count something that the fleet's owner wants to see, and say it, every time."""
        self.counters[name] += 1
        _log.info("%s", sentence)
        self._send_log(LogLine(level="info", at=utc_timestamp(), text=sentence[:2000]))

    def warn(self, sentence: str, *, about: str = "") -> None:
        """Say a thing once a minute, here and to the fleet, however often it happens.

        Args:
            sentence: For people.
            about: What is one thing although its sentences differ: those may be a stranger's, each another one.
        """
        now, about = time.monotonic(), about or sentence
        if now - self._warned_at.get(about, -_SAME_WARNING_AGAIN_S) >= _SAME_WARNING_AGAIN_S:
            self._warned_at.pop(about, None)
            self._warned_at[about] = now
            if len(self._warned_at) > _WARNINGS_REMEMBERED:
                del self._warned_at[next(iter(self._warned_at))]
            _log.warning("%s", sentence)
            self._send_log(LogLine(level="warning", at=utc_timestamp(), text=sentence[:2000]))

    def is_due(self) -> bool:
        """A telemetry message should be sent."""
        return time.monotonic() >= self._due_at

    def telemetry(
        self,
        *,
        run_id: str,
        policy_group: str,
        shelf: PolicyShelf,
        outbox: Outbox,
        workforce: Workforce,
        pids: list[int],
    ) -> Telemetry:
        """The next telemetry message."""
        now = time.monotonic()
        self._due_at = now + self._period_s
        health = self._health.read(pids=pids, outbox_bytes=outbox.bytes)
        for name, sentence in self._power_watch.news(health.throttled):
            self.count(f"board_{name}", sentence)
        return Telemetry(
            board_id=self._board_id,
            boot_id=self._boot_id,
            uptime_s=now - self._started_at,
            run_id=run_id,
            policy_group=policy_group,
            policy_version=shelf.newest.version if shelf.newest else 0,
            highest_version_seen=shelf.highest_seen,
            runs=outbox.counters(),
            sketches={name: sketch.to_state() for name, sketch in self._sketches.items()},
            counters={**self.counters, **outbox.recovered, **workforce.counters},
            health=health,
        )
