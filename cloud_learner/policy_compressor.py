"""From weights to a file that boards can run, by the first of some recipes that is fit to act.

the run's recipe --> int8-dynamic --> float32        or, by `recipe = "auto"`, what a class of boards runs fastest first
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud_learner.calibration import imagined_observations
from cloud_learner.policy_metadata import policy_metadata
from compressor import (
    CompressedPolicy,
    CompressionRecipe,
    InvalidPolicyError,
    PolicyGraph,
    Precision,
    UnsupportedPolicyError,
    WeightScales,
    compress,
)
from compressor.calibration import CalibrationError, Ranges, calibrate
from compressor.divergence import branches_of, kl_divergence
from compressor.pruning import prune
from compressor.quantization_aware import make_rounded
from compressor.run_file import run_model
from compressor.student import make_student
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import RunSpec
from fleet_protocol.spaces import BoxSpec, SpaceSpec, branches

_log = logging.getLogger(__name__)

_SCALED_BY_ROW: Final = (Precision.INT8_DYNAMIC, Precision.INT8)
"""Their matrices under float activations have a scale for each row, unless the recipe says otherwise."""
_JUDGED_EVERY_S: Final = 1.0
_VECTORS, _IMAGES = 64, 8
"""Observations that a file is judged by: a few milliseconds' worth."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A policy as it was at one moment.

    Attributes:
        graph: A copy that later updates do not touch.
        largest_logit: Largest logit difference lately, from which boards take their first grid.
        calibration: Recent observations as the policy sees them; None before the first batch.
        student: What the recipe's training has made of it, and the ranges for its file; None where the recipe does not
            train, or that is not fit to act.
    """

    graph: PolicyGraph
    largest_logit: float
    calibration: NDArray[Any] | None = None
    student: tuple[PolicyGraph, Ranges] | None = None


def require_fit(recipe: CompressionRecipe, policy: PolicyGraph) -> None:
    """Try a recipe on a policy before a run begins with it.

    Raises:
        ProgramError: It does not fit; the sentence says which layer and what to do.
    """
    try:
        graph = make_student(policy, recipe.student) if recipe.student else policy
        graph = prune(graph, recipe.pruned) if recipe.pruned else graph
        seen = imagined_observations(graph) if recipe.needs_calibration else None
        if recipe.is_trained_for:
            make_rounded(graph, recipe, {} if seen is None else calibrate(graph, seen))
        compress(graph, recipe, metadata={}, calibration=seen)
    except UnsupportedPolicyError as error:
        raise ProgramError(ExitCode.CONFIG, f"recipe {recipe}: {error}") from error


class _Verdict(NamedTuple):
    """What a recipe's files were like, and when that was asked."""

    at: float
    divergence: float


class PolicyCompressor:
    """Makes files of snapshots.

    Args:
        recipes: How, the best first, and float32 at last.
        run: For which run.
        spaces: Observation and action space, for the file's metadata.
        has_old_runtime: Whether a live board runs a runtime that cannot read a scale for each row.
        floor: The largest mean KL(policy || file) in nats with which a file is fit to act.

    Attributes:
        recipes: As given; others may be put in their place.
        stand_ins: Files that were made by another recipe than the first.
        model_bytes: Size of the newest file.
        newest: Its recipe.
    """

    def __init__(
        self,
        recipes: Sequence[CompressionRecipe],
        *,
        run: RunSpec,
        spaces: tuple[BoxSpec, SpaceSpec],
        has_old_runtime: Callable[[], bool],
        floor: float,
    ) -> None:
        self.recipes = tuple(recipes)
        self._run = run
        self._spaces = spaces
        self._has_old_runtime = has_old_runtime
        self._floor = floor
        self._told: set[str] = set()
        self._judged: dict[CompressionRecipe, _Verdict] = {}
        self.stand_ins = 0
        self.model_bytes = 0
        self.newest: CompressionRecipe | None = None

    def compress(self, snapshot: Snapshot, version: int) -> CompressedPolicy:
        """Return the file to publish.

        Raises:
            InvalidPolicyError: The policy itself is broken: its weights are not finite.
        """
        recipes = self.recipes
        for recipe in recipes:
            if recipe.needs_training and snapshot.student is None:
                continue
            try:
                policy = self.make(snapshot, recipe, version)
            except (InvalidPolicyError, UnsupportedPolicyError, CalibrationError) as error:
                if recipe == recipes[-1]:
                    raise
                self._tell(f"a policy cannot be made by {recipe}: {error}")
                continue
            if recipe.precision.is_float or self._holds_floor(recipe, snapshot, policy):
                self.stand_ins += recipe != recipes[0]
                self.newest, self.model_bytes = recipe, len(policy.model)
                return policy
        raise AssertionError  # pragma: no cover - float32, the last, is returned or raises

    @property
    def divergence(self) -> float | None:
        """Mean KL of the last file by the first recipe that was judged, in nats; None before that."""
        last = self._judged.get(self.recipes[0])
        return last.divergence if last else None

    def make(self, snapshot: Snapshot, recipe: CompressionRecipe, version: int) -> CompressedPolicy:
        """Return the file of a snapshot by one recipe, whatever it is like.

        Raises:
            InvalidPolicyError: Its weights are not finite.
            UnsupportedPolicyError: The recipe does not fit the policy.
            CalibrationError: The observations tell no grid.
        """
        recipe = self._fleets(recipe)
        graph, ranges = snapshot.graph, None
        if recipe.needs_training and snapshot.student is not None:
            graph, learned = snapshot.student
            ranges = learned or None
        calibration = None
        if recipe.needs_calibration and ranges is None:
            calibration = imagined_observations(graph) if snapshot.calibration is None else snapshot.calibration
        metadata = policy_metadata(
            recipe,
            heads=graph.heads,
            state_size=graph.state_size,
            run=self._run,
            version=version,
            spaces=self._spaces,
            largest_logit=snapshot.largest_logit,
        )
        return compress(graph, recipe, metadata=metadata, calibration=calibration, ranges=ranges)

    def _holds_floor(self, recipe: CompressionRecipe, snapshot: Snapshot, policy: CompressedPolicy) -> bool:
        """Whether files of a recipe act like their policies; asked once a second, for it takes milliseconds."""
        now, seen = time.monotonic(), snapshot.calibration
        if seen is None or snapshot.graph.memory is not None:
            return True
        last = self._judged.get(recipe)
        if last is not None and now - last.at < _JUDGED_EVERY_S:
            return last.divergence <= self._floor
        rows = np.linspace(0, len(seen) - 1, _IMAGES if snapshot.graph.image_shape else _VECTORS).round().astype(int)
        expected = snapshot.graph.forward(seen[rows])
        cuts = branches_of(expected, list(branches(self._spaces[1])) or None)
        divergence = float(kl_divergence(expected, run_model(policy.model, seen[rows]), cuts).mean())
        self._judged[recipe] = _Verdict(now, divergence)
        if divergence <= self._floor:
            return True
        self._tell(
            f"by {policy.recipe} a policy is {divergence:.2g} nats from what was learned, over max_compression_kl "
            f"{self._floor:g}"
        )
        return False

    def _fleets(self, recipe: CompressionRecipe) -> CompressionRecipe:
        """The recipe, coarser where a board of the fleet could not read its files."""
        if recipe.precision not in _SCALED_BY_ROW or not self._has_old_runtime():
            return recipe
        self._tell(
            "a board runs tflite-runtime, which cannot read a scale for each row: as long as it is there, policies "
            "have one scale for each matrix",
            stand_in=False,
        )
        return replace(recipe, weight_scales=WeightScales.PER_TENSOR)

    def _tell(self, sentence: str, *, stand_in: bool = True) -> None:
        """Warn, once for each kind of trouble."""
        kind = sentence.partition(":")[0][:20]
        if kind not in self._told:
            self._told.add(kind)
            _log.warning("%s%s", sentence, "; boards get a humbler one meanwhile" if stand_in else "")
