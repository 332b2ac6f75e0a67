"""The beginning of a resumed run: boards that an earlier learner has brought to rest act again."""

import time
from typing import Final

from cloud_learner.board_book import BoardBook
from cloud_learner.fleet_link import FleetLink
from fleet_protocol.commands import Resume

_ASK_AGAIN_S: Final = 2.0

Boot = tuple[str, str]
"""(board id, boot id)."""


class Awakening:
    """Tells each board once that comes while the run is learned, and again until it answers.

    Nobody knows which boards rest: those that were away meanwhile do so still, and one that acts is not disturbed.

    Args:
        link: Sends commands.
        book: Has the boards and their answers.
        run_id: The run.
    """

    def __init__(self, link: FleetLink, book: BoardBook, *, run_id: str) -> None:
        self._link = link
        self._book = book
        self._run_id = run_id
        self._awake: set[Boot] = set()
        self._asked: dict[Boot, list[int]] = {}
        self._due_at = 0.0

    def ask(self) -> None:
        """Ask the boards that have not answered, if it is time to; called after every turn of the learner's loop."""
        now = time.monotonic()
        if now < self._due_at:
            return
        self._due_at = now + _ASK_AGAIN_S
        for board_id, birth in self._book.live_boards().items():
            boot = (board_id, birth.boot_id)
            if boot in self._awake:
                continue
            counters = self._asked.setdefault(boot, [])
            if any(self._book.reply(board_id, counter) is not None for counter in counters):
                self._awake.add(boot)
                continue
            counters.append(self._link.send_command(board_id, Resume(), run_id=self._run_id))
