"""What the learner knows of its boards: who is there, with which spaces, and what they last reported."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cloud_learner.space_checks import require_possible
from fleet_protocol.commands import CommandReply
from fleet_protocol.messages import Birth, Death, Status, Telemetry
from fleet_protocol.sketch import LatencySketch
from fleet_protocol.spaces import BoxSpec, SpaceSpec

_log = logging.getLogger(__name__)

_BOOTS_REMEMBERED: Final = 256
"""A board that claims to start again and again costs no more memory than this."""
_REPLIES_REMEMBERED: Final = 64
"""The same for answers: whoever asked waits for one of the last few."""
_ODD_FOR_S: Final = 60.0
"""A board whose windows have been like others' for so long is no problem any more."""
_SET_ASIDE: Final = "{} of its windows are set aside: {}; look at its sensors, and at who has its card"
_CLONED: Final = "two live agents call themselves {}: give each board an id of its own with --board"

Spaces = tuple[BoxSpec, SpaceSpec]


@dataclass(slots=True)
class BoardRecord:
    """One board."""

    birth: Birth | None = None
    boots: deque[str] = field(default_factory=lambda: deque[str](maxlen=_BOOTS_REMEMBERED))
    """Boot ids, in the order of their first births."""
    newest_boot: str = ""
    is_cloned: bool = False
    odd_windows: int = 0
    """Windows that had no place among those of the other boards."""
    oddity: str = ""
    """What was odd about the last of them."""
    odd_at: float = 0.0
    """Monotonic seconds."""
    telemetry: dict[str, Telemetry] = field(default_factory=dict[str, Telemetry])
    """By boot id: a dead boot's last word still counts."""
    replies: dict[int, CommandReply] = field(default_factory=dict[int, CommandReply])
    """By the command's counter."""


class BoardBook:
    """Written by the intake thread, read by the learner's.

    Args:
        run_id: The run whose boards count.
        spaces: The run's spaces where they are known from a checkpoint.
    """

    def __init__(self, run_id: str, spaces: Spaces | None) -> None:
        self._run_id = run_id
        self._boards: dict[str, BoardRecord] = {}
        self._changed = threading.Condition()
        self._spaces = spaces

    @property
    def spaces(self) -> Spaces | None:
        """The run's spaces, fixed by the first board that told them."""
        return self._spaces

    def take_status(self, status: Status) -> None:
        """A board is there, or gone.

        Raises:
            BadMessage: It tells spaces that no policy can have.
        """
        with self._changed:
            record = self._boards.setdefault(status.board_id, BoardRecord())
            if isinstance(status, Death):
                if record.birth is not None and record.birth.session_id == status.session_id:
                    record.birth = None
            else:
                record.birth = status
                _note_boot(record, status)
                self._fix_spaces(status)
            self._changed.notify_all()

    def take_telemetry(self, telemetry: Telemetry) -> None:
        """A board has reported."""
        with self._changed:
            record = self._boards.setdefault(telemetry.board_id, BoardRecord())
            record.telemetry[telemetry.boot_id] = telemetry
            while len(record.telemetry) > _BOOTS_REMEMBERED:
                del record.telemetry[next(iter(record.telemetry))]

    def take_reply(self, reply: CommandReply) -> None:
        """A board has answered a command; nobody answers for another."""
        with self._changed:
            replies = self._boards.setdefault(reply.board_id, BoardRecord()).replies
            replies[reply.counter] = reply
            while len(replies) > _REPLIES_REMEMBERED:
                del replies[next(iter(replies))]
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until a condition on this book holds; False if it does not in time."""
        with self._changed:
            return self._changed.wait_for(condition, timeout=timeout_s)

    def reply(self, board_id: str, counter: int) -> CommandReply | None:
        """A board's answer to a command, if it has come."""
        with self._changed:
            record = self._boards.get(board_id)
            return record.replies.get(counter) if record else None

    def live_boards(self) -> dict[str, Birth]:
        """Boards that are there and act for this run, by id."""
        with self._changed:
            births = {board_id: record.birth for board_id, record in self._boards.items()}
        return {
            board_id: birth
            for board_id, birth in births.items()
            if birth is not None and birth.run_id == self._run_id and birth.problem is None
        }

    def policy_group(self, board_id: str, boot_id: str) -> str:
        """Whose policies a boot of a board takes, as it last said; empty if it has not."""
        with self._changed:
            record = self._boards.get(board_id)
            telemetry = record.telemetry.get(boot_id) if record else None
            return telemetry.policy_group if telemetry else ""

    def has_runtime(self, name: str) -> bool:
        """Whether a live board's TFLite runtime begins with this name."""
        return any(birth.runtime.startswith(name) for birth in self.live_boards().values())

    def note_oddity(self, board_id: str, oddity: str) -> None:
        """A window of a board was set aside; a sentence says why."""
        with self._changed:
            record = self._boards.setdefault(board_id, BoardRecord())
            record.odd_windows += 1
            record.oddity, record.odd_at = oddity, time.monotonic()

    def odd_windows(self, board_id: str) -> int:
        """How many windows of a board were set aside."""
        with self._changed:
            record = self._boards.get(board_id)
            return record.odd_windows if record else 0

    def problems(self) -> dict[str, str]:
        """Why boards that are there do not act as they should, by id."""
        with self._changed:
            odd = {
                name: _SET_ASIDE.format(record.odd_windows, record.oddity)
                for name, record in self._boards.items()
                if record.odd_windows and time.monotonic() - record.odd_at < _ODD_FOR_S
            }
            cloned = {name: _CLONED.format(name) for name, record in self._boards.items() if record.is_cloned}
            return (
                odd
                | cloned
                | {
                    board_id: record.birth.problem.sentence
                    for board_id, record in self._boards.items()
                    if record.birth is not None and record.birth.problem is not None
                }
            )

    def telemetry(self) -> dict[str, list[Telemetry]]:
        """The last word of each boot that took part in this run, by board."""
        with self._changed:
            return {
                board_id: [t for t in record.telemetry.values() if self._run_id in t.runs]
                for board_id, record in sorted(self._boards.items())
                if any(self._run_id in t.runs for t in record.telemetry.values())
            }

    def _fix_spaces(self, birth: Birth) -> None:
        if self._spaces is not None or birth.run_id != self._run_id:
            return
        if birth.observation_space is not None:  # else it tells why it cannot
            self._spaces = require_possible(birth.observation_space, birth.action_space)


def _note_boot(record: BoardRecord, birth: Birth) -> None:
    """See a clone: a boot that comes back after another one was there is alive beside it (D2).

    A restart brings a boot id that nobody has seen, and a reconnect brings the same one again.
    """
    if birth.boot_id not in record.boots:
        record.boots.append(birth.boot_id)
    elif birth.boot_id != record.newest_boot and not record.is_cloned:
        record.is_cloned = True
        _log.warning("%s", _CLONED.format(birth.board_id))
    record.newest_boot = birth.boot_id


def merged_sketch(telemetry: list[Telemetry], name: str) -> LatencySketch:
    """One measure of several boots or boards, as one sketch."""
    sketch = LatencySketch()
    for report in telemetry:
        if name in report.sketches:
            sketch.merge(report.sketches[name])
    return sketch
