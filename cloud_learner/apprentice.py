"""A student beside the learner: it becomes the policy that boards run, and costs an update next to nothing.

    update --lesson--> [ a few steps while the learner waits for boards ] --graph--> publisher

Boards act with what the student has become, so that lessons are on the states that it visits itself, and V-trace makes
up for the difference to the policy that is learned. It runs on the learner's own thread: a step takes a millisecond or
few, an update waits for one at most, and where boards leave no time to wait it gets a small share of each update's.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import torch

from compressor import CompressionRecipe, PolicyGraph
from compressor.calibration import Ranges, calibrate
from compressor.distillation import Distiller, Lesson
from compressor.pruning import prune
from compressor.quantization_aware import learned_ranges, make_rounded
from compressor.student import make_student
from compressor.torch_policy import TorchPolicy

_SHARE: Final = 0.08
"""Of an update's time, for a learner that never waits."""
_LESSONS: Final = 8
_ROWS: Final = 256
_MEMORY: Final = 0.95
"""Of the divergence's running mean."""


class Apprentice:
    """Learns the steps of a recipe that train, while the policy is still learning.

    Args:
        recipe: One that trains.
        branches: How many actions each branch of a categorical head has; empty for a Gaussian one.
        floor: The largest mean KL(policy || student) in nats with which the student is fit to act.
        seed: Of new weights.

    Attributes:
        divergence: The mean KL of late; infinite before the first step.
        steps: Gradient steps so far.
    """

    def __init__(self, recipe: CompressionRecipe, branches: Sequence[int], *, floor: float, seed: int = 0) -> None:
        self._recipe = recipe
        self._branches = list(branches) or None
        self._floor = floor
        self._seed = seed
        self._lessons: deque[Lesson] = deque(maxlen=_LESSONS)
        self._generator = torch.Generator().manual_seed(seed)
        self._distiller: Distiller | None = None
        self._ranges: Ranges = {}
        self._owed_s = 0.0
        self.divergence = float("inf")
        self.steps = 0

    def attend(self, lesson: Lesson, policy: Callable[[], PolicyGraph], *, update_s: float) -> None:
        """Take a lesson, and use the share of the update's time.

        Args:
            lesson: Of the newest update.
            policy: The policy, with its value.
            update_s: Seconds that the update took.

        Raises:
            UnsupportedPolicyError: The recipe does not fit the policy.
        """
        self._lessons.append(lesson)
        taught = policy()
        if self._distiller is None:
            self._distiller = self._begin(taught, lesson)
        self._distiller.follow(taught)  # what it is judged by is what goes out, with the newest normaliser
        self._owed_s += _SHARE * update_s
        while self._owed_s > 0:
            self._owed_s -= self.step()

    def practise(self, is_called: Callable[[], bool], *, wait_s: float) -> None:
        """Learn while the learner has nothing else to do.

        Args:
            is_called: Whether it has.
            wait_s: How long it would wait.
        """
        until = time.monotonic() + wait_s
        while not is_called() and time.monotonic() < until and self.step():
            pass

    def step(self) -> float:
        """Take a gradient step; returns the seconds that it took, 0 before the first lesson."""
        if self._distiller is None:
            return 0.0
        started = time.perf_counter()
        lesson = self._lessons[int(torch.randint(len(self._lessons), (), generator=self._generator))]
        kl = self._distiller.step(self._part_of(lesson))
        self.steps += 1
        known = kl if self.steps == 1 else self.divergence
        self.divergence = _MEMORY * known + (1 - _MEMORY) * kl
        return time.perf_counter() - started

    def fit(self, policy: PolicyGraph) -> tuple[PolicyGraph, Ranges] | None:
        """What boards may run in place of a policy, with ranges for its file; None while it is not fit to."""
        if self._distiller is None or not self.divergence <= self._floor:
            return None
        self._distiller.follow(policy)
        student = self._distiller.student
        return student.to_graph().without_value(), learned_ranges(student, self._ranges)

    def _begin(self, policy: PolicyGraph, lesson: Lesson) -> Distiller:
        recipe, graph = self._recipe, policy
        if recipe.student:
            graph = make_student(graph, recipe.student, seed=self._seed)
        if recipe.pruned:
            graph = prune(graph, recipe.pruned)
        if not recipe.is_trained_for:
            return self._distiller_of(TorchPolicy(graph), lesson)
        if recipe.needs_calibration:
            seen = lesson.observations.flatten(0, 1)[:_ROWS]
            self._ranges = calibrate(graph, seen.cpu().numpy())
        return self._distiller_of(make_rounded(graph, recipe, self._ranges), lesson)

    def _distiller_of(self, student: TorchPolicy, lesson: Lesson) -> Distiller:
        return Distiller(student.to(lesson.observations.device), branches=self._branches)

    def _part_of(self, lesson: Lesson) -> Lesson:
        """As many rows as a step is quick with: any of them, or with a memory all of some environments."""
        steps, environments = lesson.observations.shape[:2]
        if lesson.state is not None:
            some = torch.randint(environments, (max(1, _ROWS // steps),), generator=self._generator)
            return Lesson(
                lesson.observations[:, some],
                {name: array[:, some] for name, array in lesson.taught.items()},
                lesson.state[some],
                None if lesson.is_first is None else lesson.is_first[:, some],
            )
        some = torch.randint(steps * environments, (_ROWS,), generator=self._generator)
        return Lesson(
            lesson.observations.flatten(0, 1)[some],
            {name: array.flatten(0, 1)[some] for name, array in lesson.taught.items()},
        )
