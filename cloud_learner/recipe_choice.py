"""`recipe = "auto"`: each class of boards runs the fastest files, as one of its own boards has measured them.

    a policy --by each recipe--> [ Bench on a board of the class ] --ranking--> a group of policies for the class
                                                                                 `--Follow--> each of its boards

How close a file is to the policy is judged at each publication: the first of the ranking that holds the floor goes out.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from statistics import median
from typing import Any, Final

from cloud_learner.board_book import BoardBook
from cloud_learner.fleet_link import FleetLink
from cloud_learner.policy_compressor import PolicyCompressor, Snapshot
from cloud_learner.policy_publisher import PolicyPublisher
from cloud_learner.recipe_ranking import RecipeRanking
from compressor import CompressionRecipe, UnsupportedPolicyError
from compressor.calibration import CalibrationError
from compressor.recipe import candidates
from fleet_protocol.commands import LARGEST_MODEL, Bench, BenchResult, Follow
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.messages import Birth, RunSpec

_log = logging.getLogger(__name__)

_STEPS: Final = 1000
_WARM_UP: Final = 50
_ANSWER_WAIT_S: Final = 160.0
"""Boards give a bench 150 s, and say when it was not enough."""
_FAILED_FOR_S: Final = 60.0
"""A board that did not answer is asked again after so long: most of what goes wrong passes."""
_TELL_AGAIN_S: Final = 3.0
"""Boards say every second or so which group they follow."""
_LOOK_EVERY_S: Final = 0.1
_MOST_CLASSES: Final = 16
"""Boards name their hardware themselves: what they invent costs no more than this."""


Boot = tuple[str, str]
"""(board id, boot id)."""


@dataclass(frozen=True, slots=True)
class BoardClass:
    """Boards on which a file takes the same time, as their births say.

    Attributes:
        hardware: Model and processor.
        runtime: TFLite's.
        copies: Observations at a time.
    """

    hardware: str
    runtime: str
    copies: int

    @classmethod
    def of(cls, birth: Birth) -> "BoardClass":
        """A board's class."""
        return cls(birth.hardware, birth.runtime, birth.copies)

    def group(self, run: RunSpec) -> str:
        """The group of policies that boards of this class are given in a run."""
        return f"{run.group[:50]}.{sha256(repr(self).encode()).hexdigest()[:8]}"

    def __str__(self) -> str:
        return f"{self.hardware or 'unknown hardware'} with {self.runtime}, {self.copies} at a time"


@dataclass(frozen=True, slots=True)
class _Asked:
    board_id: str
    boot_id: str
    counter: int
    until: float


@dataclass(slots=True)
class _Trial:
    """What is known of a class."""

    compressor: PolicyCompressor
    models: dict[CompressionRecipe, bytes]
    ranking: RecipeRanking
    asked: _Asked | None = None
    failed: dict[Boot, float] = field(default_factory=dict[Boot, float])
    """Until when boards are not asked that did not answer: another of their class may."""
    is_decided: bool = False


class RecipeChoice:
    """Has each class of boards measure the candidates, once, and gives it a group of its own.

    Args:
        run: The run.
        link: Sends commands.
        book: Has the boards and their answers.
        publisher: Is given a group and a compressor for each class.
        make_compressor: Takes recipes and a runtime.
        publish: Has a policy published now.
    """

    def __init__(
        self,
        run: RunSpec,
        *,
        link: FleetLink,
        book: BoardBook,
        publisher: PolicyPublisher,
        make_compressor: Callable[[tuple[CompressionRecipe, ...], str], PolicyCompressor],
        publish: Callable[[], None],
    ) -> None:
        self._run = run
        self._link = link
        self._book = book
        self._publisher = publisher
        self._make_compressor = make_compressor
        self._publish = publish
        self._trials: dict[BoardClass, _Trial] = {}
        self._told: dict[Boot, float] = {}
        self._due_at = 0.0

    def attend(self, snapshot: Callable[[], Snapshot]) -> None:
        """Carry on what can be carried on now, if it is time to; called after every turn of the learner's loop.

        Args:
            snapshot: The policy as it is now.
        """
        now = time.monotonic()
        if now < self._due_at:
            return
        self._due_at = now + _LOOK_EVERY_S
        boards = self._book.live_boards()
        live = {BoardClass.of(birth) for birth in boards.values()}
        for board_class in live - self._trials.keys():
            if len(self._trials) < _MOST_CLASSES:
                self._trials[board_class] = self._begin(board_class, snapshot())
        for board_class, trial in self._trials.items():
            if not trial.is_decided:
                self._progress(board_class, trial, boards)
            else:
                self._publish_for(board_class, trial, is_live=board_class in live)
        self._tell_groups(boards)

    def report(self) -> list[dict[str, Any]]:
        """For each class, what was measured and what it was given; the fields are described in docs/protocol.md."""
        boards = self._book.live_boards()
        return [
            {
                "hardware": board_class.hardware,
                "runtime": board_class.runtime,
                "copies": board_class.copies,
                "boards": [name for name, birth in boards.items() if BoardClass.of(birth) == board_class],
                "group": board_class.group(self._run) if trial.is_decided else self._run.group,
                "recipe": str(trial.compressor.newest) if trial.compressor.newest else None,
                "ranking": [str(recipe) for recipe in trial.compressor.recipes] if trial.is_decided else [],
                "p50_us": {str(recipe): median(us) for recipe, us in trial.ranking.measured_us.items() if us},
                "bytes": trial.compressor.model_bytes,
                "stand_ins": trial.compressor.stand_ins,
                "kl": trial.compressor.divergence,
            }
            for board_class, trial in self._trials.items()
        ]

    def _begin(self, board_class: BoardClass, snapshot: Snapshot) -> _Trial:
        compressor = self._make_compressor(candidates(), board_class.runtime)
        models: dict[CompressionRecipe, bytes] = {}
        for recipe in candidates():
            if recipe.needs_calibration and snapshot.graph.memory is not None:
                continue  # how close such a file is to its policy is not judged, so it must not win by speed alone
            try:
                model = compressor.make(snapshot, recipe, version=0).model
            except (UnsupportedPolicyError, CalibrationError) as error:
                _log.info("recipe auto does without %s: %s", recipe, error)
                continue
            if len(model) <= LARGEST_MODEL:
                models[recipe] = model
            else:
                _log.info("recipe auto does without %s: its file is too large to be sent", recipe)
        return _Trial(compressor, models, RecipeRanking(list(models)))

    def _progress(self, board_class: BoardClass, trial: _Trial, boards: dict[str, Birth]) -> None:
        if trial.asked is not None:
            self._hear(board_class, trial, trial.asked, boards)
        if trial.asked is not None:
            return
        if (recipe := trial.ranking.next) is None:
            self._decide(board_class, trial)
        else:
            self._ask(board_class, trial, trial.models[recipe], boards)

    def _ask(self, board_class: BoardClass, trial: _Trial, model: bytes, boards: dict[str, Birth]) -> None:
        now = time.monotonic()
        for board_id, birth in boards.items():
            if BoardClass.of(birth) == board_class and trial.failed.get((board_id, birth.boot_id), 0.0) < now:
                bench = Bench(model=model, copies=max(1, board_class.copies), steps=_STEPS, warm_up=_WARM_UP)
                counter = self._link.send_command(board_id, bench, run_id=self._run.run_id)
                trial.asked = _Asked(board_id, birth.boot_id, counter, time.monotonic() + _ANSWER_WAIT_S)
                return

    def _hear(self, board_class: BoardClass, trial: _Trial, asked: _Asked, boards: dict[str, Birth]) -> None:
        reply = self._book.reply(asked.board_id, asked.counter)
        birth = boards.get(asked.board_id)
        is_gone = birth is None or birth.boot_id != asked.boot_id
        if reply is None and not is_gone and time.monotonic() < asked.until:
            return
        trial.asked = None
        problem = reply.problem if reply else None
        why = problem.sentence if problem else "" if reply else "it is gone" if is_gone else "no answer in time"
        self._link.note_answer(asked.board_id, asked.counter, problem=why)
        if reply is not None and isinstance(reply.result, BenchResult):
            trial.ranking.note(reply.result.p50_us)
        elif problem is not None and problem.code == ExitCode.USAGE:
            _log.warning("%s does without %s: %s", board_class, trial.ranking.next, why)
            trial.ranking.drop()
        else:
            trial.failed[asked.board_id, asked.boot_id] = time.monotonic() + _FAILED_FOR_S
            _log.warning(
                "board %s did not measure for its class, %s (%s): another board of the class is asked, or this one in "
                "%.0f s, and until one answers they all run what the others do",
                *(asked.board_id, board_class, why or "it gave no figures", _FAILED_FOR_S),
            )

    def _decide(self, board_class: BoardClass, trial: _Trial) -> None:
        trial.compressor.recipes = tuple(trial.ranking.fastest_first())
        trial.is_decided = True
        trial.models.clear()
        times = ", ".join(f"{recipe} {median(us):.1f}" for recipe, us in trial.ranking.measured_us.items() if us)
        _log.info("%s runs %s (p50 in us: %s)", board_class, trial.compressor.recipes[0], times)

    def _publish_for(self, board_class: BoardClass, trial: _Trial, *, is_live: bool) -> None:
        """Give a class its group while one of its boards is there; one that comes back begins with the run's."""
        group = board_class.group(self._run)
        if is_live and self._publisher.add(group, trial.compressor):
            self._publish()
        elif not is_live:
            self._publisher.drop(group)

    def _tell_groups(self, boards: dict[str, Birth]) -> None:
        """Tell boards of their group until they say that they follow it.

        Not before a heartbeat has named it: a board that hears one that does not goes back to the run's group.
        """
        now = time.monotonic()
        for board_id, birth in boards.items():
            group, boot = BoardClass.of(birth).group(self._run), (board_id, birth.boot_id)
            is_told = self._book.policy_group(*boot) == group or now < self._told.get(boot, 0.0)
            if group in self._link.announced_groups and not is_told:
                self._told[boot] = now + _TELL_AGAIN_S
                self._link.send_command(board_id, Follow(group=group), run_id=self._run.run_id)
