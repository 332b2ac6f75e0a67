"""The learner's heartbeat: to the fleet every second, to a person's terminal every five."""

import logging
import time
from typing import Final, Literal

from cloud_learner.board_book import BoardBook
from cloud_learner.fleet_link import FleetLink
from cloud_learner.progress import Progress
from fleet_protocol.messages import LearnerReport, RunSpec

_log = logging.getLogger(__name__)

_LOG_PERIOD_S: Final = 5.0

RunState = Literal["waiting", "learning", "settling", "ended"]


class Heartbeat:
    """Beats when it is due.

    Args:
        link: To the fleet.
        run: What is learned.
        period_s: Seconds between beats.
    """

    def __init__(self, link: FleetLink, run: RunSpec, *, period_s: float) -> None:
        self._link = link
        self._run = run
        self._period_s = period_s
        self._due_at = 0.0
        self._log_due_at = 0.0
        self._keys_problem = ""

    def beat(
        self, state: RunState, progress: Progress, book: BoardBook, *, versions: dict[str, int], force: bool
    ) -> None:
        """Publish a report if one is due, or at once."""
        now = time.monotonic()
        if now < self._due_at and not force:
            return
        self._due_at = now + self._period_s
        keys_problem = self._link.follow_keys()
        if keys_problem and keys_problem != self._keys_problem:
            _log.warning("%s", keys_problem)
        self._keys_problem = keys_problem
        of_boards = [f"{board}: {problem}" for board, problem in book.problems().items()]
        problems = filter(None, [progress.trouble, keys_problem, *of_boards])
        report = LearnerReport(
            run_id=self._run.run_id,
            generation=self._run.generation,
            env_id=self._run.env_id,
            state=state,
            versions=versions,
            heartbeat_s=self._period_s,
            env_steps=progress.env_steps,
            learner_updates=progress.updates,
            episodes=progress.episodes,
            return_mean_100=progress.return_mean_100,
            target_return=progress.target_return,
            policy_lag=progress.policy_lag,
            steps_per_s=progress.steps_per_s(),
            problem="; ".join(problems)[:2000],
        )
        self._link.publish_report(report)
        if now >= self._log_due_at:
            self._log_due_at = now + _LOG_PERIOD_S
            _log.info("%s", _progress_line(report, boards=len(book.live_boards())))


def _progress_line(report: LearnerReport, *, boards: int) -> str:
    if report.state == "waiting":
        trouble = f" ({report.problem})" if report.problem else ""
        return f"waiting for a board to tell the spaces of {report.env_id}{trouble}; start one with `edgerl act`"
    mean = "-" if report.return_mean_100 is None else f"{report.return_mean_100:.1f}"
    return (
        f"{report.state}: {boards} boards, {report.env_steps:,} steps ({report.steps_per_s:,.0f}/s), "
        f"{report.learner_updates:,} updates, policy {max(report.versions.values())}, mean return {mean}"
    )
