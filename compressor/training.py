"""The steps of a recipe that train: from a policy to the weights that its file is to have.

    teacher --distill--> student --prune--> pruned --distill--> --qat--> graph and ranges, for `compress`

Each step is a phase of distillation from the policy as it came, on what the student itself visits: `visit` has the
student act, and its observations are added to what is learned from (DAgger, Ross et al. 2011,
https://arxiv.org/abs/1011.0686).
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressor.calibration import Ranges, calibrate
from compressor.distillation import Distiller, Lesson
from compressor.policy_graph import PolicyGraph
from compressor.pruning import prune
from compressor.quantization_aware import learned_ranges, make_rounded
from compressor.recipe import CompressionRecipe
from compressor.student import make_student
from compressor.torch_policy import TorchPolicy

_LEARNING_RATE: Final = 2e-3
_RETOUCH: Final = 0.25
"""Weights that have learned something are changed by smaller steps than new ones."""
_ROWS: Final = 256
"""In a minibatch."""
_CALIBRATION_ROWS: Final = 512


@dataclass(frozen=True, slots=True)
class Visit:
    """What a policy saw while it acted, T steps of B environments.

    Attributes:
        observations: `[T, B, ...]`, as the environment gives them.
        is_first: bool `[T, B]`: an episode begins with this step.
        state: float32 `[B, H]`: the memory before the first step; None without a memory.
    """

    observations: NDArray[Any]
    is_first: NDArray[np.bool_]
    state: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """What `compress` needs.

    Attributes:
        graph: the policy with the weights that its file is to have.
        ranges: where activations lie, if that was learned; None to calibrate.
    """

    graph: PolicyGraph
    ranges: Ranges | None


Visits = Callable[[PolicyGraph], Visit]
"""Has a policy act, and returns what it saw."""
Told = Callable[[str, int, int], None]
"""Is told the phase, its steps so far, and how many it has."""


def train(
    teacher: PolicyGraph,
    recipe: CompressionRecipe,
    visit: Visits,
    *,
    branches: Sequence[int] | None = None,
    steps: int = 2000,
    visit_every: int = 50,
    seed: int = 0,
    told: Told = lambda _phase, _step, _steps: None,
) -> Trained:
    """Do the steps of a recipe that train; one that has none is given back at once.

    Args:
        teacher: The policy; with a value, the student learns it too.
        recipe: What to do.
        visit: Has the student act.
        branches: How many actions each branch of a categorical head has; None if there is only one.
        steps: Gradient steps of each phase.
        visit_every: So many steps are made between two visits.
        seed: Of new weights and of the rows in a minibatch.
        told: Is told how far it is.

    Raises:
        UnsupportedPolicyError: The policy cannot be trained so; the sentence says which step and what to do.
    """
    school = _School(teacher, visit, branches, steps=steps, visit_every=visit_every, seed=seed, told=told)
    graph = teacher
    if recipe.student:
        graph = school.teach("distill", TorchPolicy(make_student(graph, recipe.student, seed=seed))).to_graph()
    if recipe.pruned:
        graph = school.teach("prune", TorchPolicy(prune(graph, recipe.pruned)), pace=_RETOUCH).to_graph()
    if not recipe.is_trained_for:
        return Trained(graph, None)
    ranges = calibrate(graph, school.observations(graph)) if recipe.needs_calibration else {}
    rounded = school.teach("qat", make_rounded(graph, recipe, ranges), pace=_RETOUCH)
    return Trained(rounded.to_graph(), learned_ranges(rounded, ranges))


class _School:
    """A teacher, and what students have seen so far."""

    def __init__(
        self,
        teacher: PolicyGraph,
        visit: Visits,
        branches: Sequence[int] | None,
        *,
        steps: int,
        visit_every: int,
        seed: int,
        told: Told,
    ) -> None:
        self._teacher = TorchPolicy(teacher).eval()
        self._visit, self._branches, self._told = visit, branches, told
        self._steps, self._visit_every = steps, visit_every
        self._generator = np.random.default_rng(seed)
        self._lessons: deque[Lesson] = deque(maxlen=max(1, steps // visit_every))

    def teach(self, phase: str, student: TorchPolicy, *, pace: float = 1.0) -> TorchPolicy:
        """Distil into a student, which is returned."""
        distiller = Distiller(student, branches=self._branches)
        for step in range(self._steps):
            self._told(phase, step, self._steps)
            if step % self._visit_every == 0:
                self._lessons.append(self._lesson(self._visit(student.to_graph())))
            distiller.set_learning_rate(pace * _LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / self._steps)))
            distiller.step(self._drawn())
        self._told(phase, self._steps, self._steps)
        return student.eval()

    def observations(self, graph: PolicyGraph) -> NDArray[Any]:
        """Some of what was seen, to calibrate with, as one batch."""
        if not self._lessons:
            self._lessons.append(self._lesson(self._visit(graph)))
        axes = 1 if graph.memory is None else 2
        seen = np.concatenate([lesson.observations.flatten(0, axes - 1).numpy() for lesson in self._lessons])
        return seen[self._generator.permutation(len(seen))[:_CALIBRATION_ROWS]]

    @torch.no_grad()
    def _lesson(self, visit: Visit) -> Lesson:
        observations = torch.from_numpy(visit.observations)
        if self._teacher.memory is None:
            observations = observations.flatten(0, 1)
            return Lesson(observations, self._teacher(observations))
        state = None if visit.state is None else torch.from_numpy(visit.state)
        is_first = torch.from_numpy(visit.is_first)
        return Lesson(observations, self._teacher(observations, state, is_first), state, is_first)

    def _drawn(self) -> Lesson:
        """A minibatch of one lesson: rows of it, or with a memory some of its environments, from first step to last."""
        lesson = self._lessons[self._generator.integers(len(self._lessons))]
        if lesson.is_first is None:
            rows = self._rows(len(lesson.observations), _ROWS)
            return Lesson(lesson.observations[rows], {name: array[rows] for name, array in lesson.taught.items()})
        steps, environments = lesson.is_first.shape
        rows = self._rows(environments, -(-_ROWS // steps))
        return Lesson(
            lesson.observations[:, rows],
            {name: array[:, rows] for name, array in lesson.taught.items()},
            None if lesson.state is None else lesson.state[rows],
            lesson.is_first[:, rows],
        )

    def _rows(self, count: int, wanted: int) -> Tensor:
        return torch.from_numpy(self._generator.integers(count, size=min(count, wanted)))
