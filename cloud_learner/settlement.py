"""The end of a run: boards rest and say where their windows are, and one of them plays the final evaluation."""

import logging
import time
from collections import defaultdict
from typing import Final

from cloud_learner.board_book import BoardBook
from cloud_learner.delivery_ledger import DeliveryLedger
from cloud_learner.fleet_link import FleetLink
from fleet_protocol.commands import AtRest, Command, CommandReply, Evaluate, EvaluationResult, Pause

_log = logging.getLogger(__name__)

_ASK_AGAIN_S: Final = 2.0
_EVALUATION_SEED: Final = 1_000_000
"""Far from the seeds of training, and the same for every policy, so that evaluations are paired."""


class Settlement:
    """Asks boards, and asks again when an answer is lost.

    Args:
        link: Sends commands.
        book: Has the answers.
        run_id: The run.
    """

    def __init__(self, link: FleetLink, book: BoardBook, *, run_id: str) -> None:
        self._link = link
        self._book = book
        self._run_id = run_id

    def rest_boards(self, ledger: DeliveryLedger, *, timeout_s: float) -> None:
        """Pause all live boards, together, and note where their windows are."""
        pause, deadline = Pause(run_id=self._run_id), time.monotonic() + timeout_s
        asked: defaultdict[str, list[int]] = defaultdict(list)

        def silent() -> list[str]:
            return [board_id for board_id in self._book.live_boards() if self._reply(board_id, asked[board_id]) is None]

        while (waiting := silent()) and (left := deadline - time.monotonic()) > 0:
            for board_id in waiting:
                asked[board_id].append(self._link.send_command(board_id, pause, run_id=self._run_id))
            self._book.wait_for(lambda: not silent(), min(left, _ASK_AGAIN_S))
        for board_id, counters in asked.items():
            reply = self._answer(board_id, counters)
            if reply is not None and isinstance(reply.result, AtRest):
                ledger.note_at_rest((reply.board_id, reply.boot_id), reply.result)
                for boot_id, rest in reply.result.earlier.items():
                    ledger.note_at_rest((reply.board_id, boot_id), rest)
            else:
                _log.warning("board %s did not come to rest in time; its accounts are an estimate", board_id)

    def evaluate(self, policy_version: int, *, episodes: int, timeout_s: float) -> EvaluationResult | None:
        """Have the first board that can do so play greedy episodes with a version."""
        command = Evaluate(policy_version=policy_version, episodes=episodes, seed=_EVALUATION_SEED)
        for board_id in self._book.live_boards():
            reply = self._ask(board_id, command, timeout_s=timeout_s)
            if reply is not None and isinstance(reply.result, EvaluationResult):
                return reply.result
            sentence = reply.problem.sentence if reply and reply.problem else "no answer in time"
            _log.warning("board %s did not evaluate version %d: %s", board_id, policy_version, sentence)
        return None

    def _ask(self, board_id: str, command: Command, *, timeout_s: float) -> CommandReply | None:
        counter = self._link.send_command(board_id, command, run_id=self._run_id)
        self._book.wait_for(lambda: self._reply(board_id, [counter]) is not None, timeout_s)
        return self._answer(board_id, [counter])

    def _answer(self, board_id: str, counters: list[int]) -> CommandReply | None:
        """The first answer to any of these commands to a board, which the link notes."""
        reply = self._reply(board_id, counters)
        problem = "no answer in time" if reply is None else reply.problem.sentence if reply.problem else ""
        for counter in counters[-1:]:
            self._link.note_answer(board_id, reply.counter if reply else counter, problem=problem)
        return reply

    def _reply(self, board_id: str, counters: list[int]) -> CommandReply | None:
        replies = (self._book.reply(board_id, counter) for counter in counters)
        return next((reply for reply in replies if reply is not None), None)
