"""The learner. Read this first: `Learner.lead` is a run from first to last message, and `Learner._learn` its loop.

    boards --windows--> intake --queue--> [ correct, learn, ack ] --update--> outlet --policies--> boards

Threads: the network's, which only hands over; the intake's; the publisher's; and this one, which owns the networks.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from cloud_learner.algorithms.algorithm import Algorithm
from cloud_learner.algorithms.making import make_algorithm, restore
from cloud_learner.awakening import Awakening
from cloud_learner.batching import make_batch
from cloud_learner.board_book import BoardBook, Spaces
from cloud_learner.checkpoints import StateFolder, StateUnwritable, VersionCounter
from cloud_learner.config import LearnerSettings
from cloud_learner.delivery_ledger import DeliveryLedger
from cloud_learner.fleet_link import FleetLink
from cloud_learner.heartbeat import Heartbeat, RunState
from cloud_learner.intake import Intake
from cloud_learner.networks import state_size
from cloud_learner.policy_outlet import PolicyOutlet
from cloud_learner.progress import Progress
from cloud_learner.run_report import make_report, write_report
from cloud_learner.saved_run import SavedRun
from cloud_learner.settlement import Settlement
from cloud_learner.trajectory_queue import TrajectoryQueue
from compressor import CompressionRecipe
from fleet_protocol.commands import EvaluationResult
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.messages import RunSpec
from fleet_protocol.spaces import branches

_IDLE_WAIT_S: Final = 0.1
_REST_WAIT_S: Final = 15.0
_INTERRUPTED_REST_WAIT_S: Final = 5.0  # a board whose card is slow hears nothing while it writes
_EVALUATION_WAIT_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    Attributes:
        exit_code: OK, TARGET_NOT_REACHED, INTERRUPTED, or STATE_UNUSABLE where the last state could not be saved.
        report: What was (or would have been) written.
    """

    exit_code: ExitCode
    report: dict[str, Any]


class Learner:
    """One run, from its first message to its report.

    Args:
        settings: What was set.
        run: What boards are told.
        link: To the fleet.
        device: Where tensors live.
        recipe: How policies are compressed; None has each class of boards choose.
        saved: What to go on from, or None.
    """

    def __init__(
        self,
        settings: LearnerSettings,
        run: RunSpec,
        *,
        link: FleetLink,
        device: torch.device,
        recipe: CompressionRecipe | None,
        saved: SavedRun | None,
    ) -> None:
        self._settings = settings
        self._run = run
        self._link = link
        self._device = device
        self._recipe = recipe
        self._saved = saved
        self._ledger = saved.ledger if saved else DeliveryLedger()
        self._windows = TrajectoryQueue()
        self._book = BoardBook(run.run_id, saved.spaces if saved else None)
        self._progress = Progress(settings.target_return, **(saved.progress if saved else {}))
        self._outlet: PolicyOutlet | None = None
        self._base_version = 0
        self._started_at = time.monotonic()
        self._heartbeat = Heartbeat(link, run, period_s=settings.heartbeat_s)
        self._awakening = Awakening(link, self._book, run_id=run.run_id) if saved else None
        self._checkpoint_due = time.monotonic() + settings.checkpoint_every_s
        self._state: RunState = "waiting"
        self._branches: tuple[int, ...] = ()

    def lead(self, state: StateFolder, versions: VersionCounter, should_stop: Callable[[], bool]) -> RunResult:
        """Announce, wait for a board, learn, settle, report."""
        settings = self._settings
        self._base_version = versions.current
        with Intake(
            self._run,
            ledger=self._ledger,
            windows=self._windows,
            book=self._book,
            ack=lambda boot, seq: self._link.send_acks([(boot, seq)]),
            current_version=lambda: self._version,
            max_policy_lag=self._settings.max_policy_lag,
            state_size=state_size(self._settings.memory, self._settings.memory_size),
        ) as intake:
            self._link.deliver_to(intake.hand_over)
            self._link.publish_run(self._run)
            spaces = self._wait_for_spaces(intake, should_stop)
            evaluation = None
            if spaces is not None:
                algorithm = make_algorithm(settings, spaces, frame_stack=self._run.frame_stack, device=self._device)
                if self._saved is not None:
                    restore(algorithm, self._saved, state)
                self._branches = branches(spaces[1])
                with self._make_outlet(algorithm, versions, spaces) as self._outlet:
                    self._learn(algorithm, self._outlet, state, intake, should_stop)
                    evaluation = self._settle(algorithm, self._outlet, state, interrupted=should_stop())
            self._state = "ended"
            self._beat(force=True)
            return self._conclude(intake, evaluation, interrupted=should_stop())

    def _learn(
        self,
        algorithm: Algorithm,
        outlet: PolicyOutlet,
        state: StateFolder,
        intake: Intake,
        should_stop: Callable[[], bool],
    ) -> None:
        """Take a batch, learn from it, ack it, publish, beat, save; until the end."""
        self._state = "learning"
        self._progress.started_at = time.monotonic()
        while not (self._is_over() or should_stop()):
            intake.raise_failure()
            self._link.raise_failure()
            if self._awakening is not None:
                self._awakening.ask()
            outlet.attend(lambda: len(self._windows) > 0, wait_s=_IDLE_WAIT_S)
            self._update(algorithm, outlet)
            outlet.offer_if_due()
            self._beat()
            self._save_if_due(algorithm, state)

    def _update(self, algorithm: Algorithm, outlet: PolicyOutlet) -> None:
        windows = self._windows.take(
            self._settings.batch_windows, wait_s=self._settings.batch_wait_s, idle_wait_s=_IDLE_WAIT_S
        )
        if not windows:
            return
        started = time.monotonic()
        batch = make_batch([window.trajectory for window in windows], self._device, self._branches)
        report = algorithm.update(batch)
        for window in windows:
            self._ledger.mark_learned(window.boot, window.seq)
        self._link.send_acks([(window.boot, window.seq) for window in windows])
        outlet.take(batch, largest_logit=report.largest_logit, update_s=time.monotonic() - started)
        self._progress.note_update(windows, batch, report, version=self._version, seconds=time.monotonic() - started)

    def _settle(
        self, algorithm: Algorithm, outlet: PolicyOutlet, state: StateFolder, *, interrupted: bool
    ) -> EvaluationResult | None:
        """Publish the last policy, bring the boards to rest, save, evaluate."""
        self._state = "settling"
        self._beat(force=True)
        version = outlet.drain(timeout_s=_REST_WAIT_S)
        self._save(algorithm, state)
        settlement = Settlement(self._link, self._book, run_id=self._run.run_id)
        settlement.rest_boards(self._ledger, timeout_s=_INTERRUPTED_REST_WAIT_S if interrupted else _REST_WAIT_S)
        self._save(algorithm, state)  # what was refused and acked while boards came to rest
        if interrupted or not self._settings.evaluation_episodes:
            return None
        return settlement.evaluate(version, episodes=self._settings.evaluation_episodes, timeout_s=_EVALUATION_WAIT_S)

    def _conclude(self, intake: Intake, evaluation: EvaluationResult | None, *, interrupted: bool) -> RunResult:
        report = make_report(
            self._settings,
            run_id=self._run.run_id,
            wall_s=time.monotonic() - self._started_at,
            progress=self._progress,
            outlet=self._outlet,
            ledger=self._ledger,
            intake=intake,
            book=self._book,
            evaluation=evaluation,
        )
        if self._settings.report:
            write_report(Path(self._settings.report), report)
        reached = self._settings.target_return is None or self._progress.reached_at > 0
        if self._progress.trouble or interrupted:
            return RunResult(ExitCode.STATE_UNUSABLE if self._progress.trouble else ExitCode.INTERRUPTED, report)
        return RunResult(ExitCode.OK if reached else ExitCode.TARGET_NOT_REACHED, report)

    # --- the parts of the loop --------------------------------------------------------------------------------------

    @property
    def _version(self) -> int:
        return max(self._base_version, self._outlet.publisher.version if self._outlet else 0)

    def _is_over(self) -> bool:
        limit = self._settings.time_limit_s
        out_of_time = limit > 0 and time.monotonic() - self._progress.started_at > limit
        return self._progress.reached_at > 0 or out_of_time

    def _wait_for_spaces(self, intake: Intake, should_stop: Callable[[], bool]) -> Spaces | None:
        deadline = time.monotonic() + self._settings.time_limit_s if self._settings.time_limit_s else float("inf")
        while self._book.spaces is None and not should_stop() and time.monotonic() < deadline:
            intake.raise_failure()
            self._link.raise_failure()
            self._beat()
            self._book.wait_for(lambda: self._book.spaces is not None, _IDLE_WAIT_S)
        return self._book.spaces

    def _make_outlet(self, algorithm: Algorithm, versions: VersionCounter, spaces: Spaces) -> PolicyOutlet:
        return PolicyOutlet(
            self._settings,
            self._run,
            algorithm=algorithm,
            recipe=self._recipe,
            spaces=spaces,
            link=self._link,
            book=self._book,
            versions=versions,
        )

    def _beat(self, *, force: bool = False) -> None:
        versions = self._outlet.publisher.versions if self._outlet else {}
        versions = {self._run.group: self._version} | versions
        self._heartbeat.beat(self._state, self._progress, self._book, versions=versions, force=force)

    def _save_if_due(self, algorithm: Algorithm, state: StateFolder) -> None:
        if time.monotonic() >= self._checkpoint_due:
            self._save(algorithm, state)
        self._note_trouble(state)

    def _note_trouble(self, state: StateFolder) -> None:
        self._progress.trouble, self._progress.state_refusals = state.trouble, state.refusals

    def _save(self, algorithm: Algorithm, state: StateFolder) -> None:
        saved = SavedRun(
            run=self._run,
            version=self._version,
            spaces=self._book.spaces,
            algorithm=algorithm.state_dict(),
            ledger=self._ledger,
            progress=self._progress.state(),
            architecture=self._settings.architecture,
        )
        with suppress(StateUnwritable):  # the folder has warned; the heartbeat says so, and the next try comes
            saved.save(state)
        self._note_trouble(state)
        self._checkpoint_due = time.monotonic() + self._settings.checkpoint_every_s
