"""Counts starts of the agent that came to nothing, so that a policy it dies of is not tried at each start (F9)."""

import time
from typing import Final

from edge_actor.board_files import BoardFiles
from fleet_protocol.codec import BadMessage, decode, encode
from fleet_protocol.messages import Count, Message

_FILE: Final = "starts"
_LONG_ENOUGH_S: Final = 600.0
"""Whatever ends an agent after this is no crash loop."""
STARTS_A_RUNG: Final = 3
BOXED_S: Final = 86_400.0
"""How long a kept policy that the agent died with is locked away: it may be innocent."""


class Starts(Message, frozen=True, kw_only=True):
    """What the file holds."""

    in_a_row: Count


class CrashWatch:
    """One start of the agent, counted until it proves to be healthy, old, or ended on purpose.

    Nothing here reads the time of day: a board without a clock has crash loops too.

    Args:
        files: Where the count survives.

    Attributes:
        failed: Starts in a row before this one that were none of these.
    """

    def __init__(self, files: BoardFiles) -> None:
        self._files = files
        self.failed = _read(files)
        self._is_open = True
        self._began_at = time.monotonic()
        self._write(self.failed + 1)

    @property
    def rung(self) -> int:
        """How far to go back: 0 = the policy that was kept last, 1 = the one before it, 2 = none."""
        return min(2, self.failed // STARTS_A_RUNG)

    def note(self, *, is_healthy: bool) -> None:
        """Close the count once a policy has proved itself, or the agent is old enough."""
        if self._is_open and (is_healthy or time.monotonic() - self._began_at >= _LONG_ENOUGH_S):
            self._is_open = False
            self._write(0)

    def end(self) -> None:
        """The agent ends because it was told to: that says nothing."""
        if self._is_open:
            self._write(self.failed)

    def _write(self, in_a_row: int) -> None:
        self._files.write(_FILE, encode(Starts(in_a_row=in_a_row)))


def _read(files: BoardFiles) -> int:
    content = files.read(_FILE)
    try:
        return decode(content, Starts).in_a_row if content is not None else 0
    except BadMessage as error:
        files.note_useless(_FILE, error)
        return 0
