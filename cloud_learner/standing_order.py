"""What every board is told once while it is there: to act again, or whose policies to take."""

import time
from collections.abc import Callable
from typing import Final

from cloud_learner.board_book import BoardBook
from cloud_learner.fleet_link import FleetLink
from fleet_protocol.commands import Command
from fleet_protocol.messages import Birth

_ASK_AGAIN_S: Final = 2.0

Boot = tuple[str, str]
"""(board id, boot id)."""


class StandingOrder:
    """Tells each board once that comes while the run is learned, and again until it answers.

    What a board was told it forgets when it starts anew, and those that were away meanwhile were not told.

    Args:
        link: Sends commands.
        book: Has the boards and their answers.
        run_id: The run.
        command: What a board is to be told; None while there is nothing to tell it.
    """

    def __init__(
        self, link: FleetLink, book: BoardBook, *, run_id: str, command: Callable[[Birth], Command | None]
    ) -> None:
        self._link = link
        self._book = book
        self._run_id = run_id
        self._command = command
        self._obeyed: set[Boot] = set()
        self._asked: dict[Boot, list[int]] = {}
        self._due_at = 0.0

    def give(self) -> None:
        """Tell the boards that have not answered, if it is time to; called after every turn of the learner's loop."""
        now = time.monotonic()
        if now < self._due_at:
            return
        self._due_at = now + _ASK_AGAIN_S
        for board_id, birth in self._book.live_boards().items():
            boot = (board_id, birth.boot_id)
            command = None if boot in self._obeyed else self._command(birth)
            if command is None:
                continue
            counters = self._asked.setdefault(boot, [])
            if any(self._book.reply(board_id, counter) is not None for counter in counters):
                self._obeyed.add(boot)
                continue
            counters.append(self._link.send_command(board_id, command, run_id=self._run_id))
