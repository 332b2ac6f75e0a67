"""When the outbox is written to disk: not at all while acks come, and seldom when they do not.

When a window has been unacked for `spill_after_s`, it and all younger ones go to disk in one transaction: one fsync in
`spill_after_s` at most, and a power cut costs at most what was produced in that time. The disk holds a copy: windows
stay in memory too, so that a disk that fails later takes nothing along.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_actor.outbox import Outbox
from edge_actor.outbox_entry import OutboxEntry
from edge_actor.spill_file import SpillFailed, SpillFile

_log = logging.getLogger(__name__)

FILE_NAME: Final = "outbox.db"


class OutboxKeeper:
    """Keeps one outbox in a board's state folder; what it cannot keep is counted, and stays in memory.

    Args:
        outbox: The windows.
        folder: The board's own state folder; None = nothing is kept.
        spill_after_s: Unacked for so long, windows go to disk, in seconds.
        counters: Takes `windows_spilled`, `spill_failed` (writes) and `outbox_corrupt` (records that were unreadable).
        warn: Takes a sentence for people.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        outbox: Outbox,
        folder: Path | None,
        *,
        spill_after_s: float,
        counters: Counter[str],
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbox = outbox
        self._file = SpillFile(folder / FILE_NAME) if folder is not None else None
        self._spill_after_s = spill_after_s
        self._counters = counters
        self._warn = warn
        self._clock = clock
        self._tidy_at = 0.0
        self._retry_at = 0.0

    def recover(self) -> None:
        """Take over what earlier boots left.

        Raises:
            ProgramError: Another agent has the file open.
        """
        if self._file is None:
            return
        try:
            kept = self._file.load()
        except SpillFailed as error:
            self._note_failure(error)
            return
        if kept.corrupt:
            self._counters["outbox_corrupt"] += kept.corrupt
            self._warn(f"{kept.corrupt} records of the outbox on disk were corrupt and are skipped")
        if kept.entries:
            _log.info("%d windows of earlier boots were on disk, and wait for the learner", len(kept.entries))
        self._outbox.restore(kept.entries, kept.accounts)
        if kept.was_damaged:
            self._write(self._outbox.unsaved())  # what could be read is on disk no more

    def keep(self) -> None:
        """Write if something has waited long enough; called after every turn of the supervisor's loop."""
        if self._file is None or self._clock() < self._retry_at:
            return
        if self._outbox.oldest_unsaved_s() >= self._spill_after_s:
            self._write(self._outbox.unsaved())
        # Deletions can wait: a window that is sent once more is known to the learner, and acked again.
        elif self._outbox.departed_rows and self._clock() >= self._tidy_at:
            self._write([])

    def close(self) -> None:
        """Keep all that is not acked, at the agent's end."""
        if self._file is not None:
            self._write(self._outbox.unsaved())
            self._file.close()

    def _write(self, entries: list[OutboxEntry]) -> None:
        assert self._file is not None  # noqa: S101 - the callers have looked
        accounts = self._outbox.accounts_on_disk(entries)
        self._tidy_at = self._clock() + self._spill_after_s
        try:
            if not accounts:  # and so no windows
                self._file.remove()
                self._outbox.forget_disk()
                return
            self._outbox.mark_saved(self._file.save(entries, self._outbox.departed_rows, accounts))
        except (SpillFailed, OSError) as error:
            self._note_failure(error)
            return
        self._outbox.departed_rows.clear()
        self._counters["windows_spilled"] += len(entries)

    def _note_failure(self, error: Exception) -> None:
        self._retry_at = self._clock() + self._spill_after_s
        self._counters["spill_failed"] += 1
        self._warn(f"the outbox goes on in memory: {error}")
        if self._file is not None and not self._file.is_open:
            self._outbox.forget_disk()
