"""Compress a checkpoint by a recipe: train what it trains, write the file, judge it. `compress_command` prints it."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from cloud_learner.saved_policy import SavedPolicy
from compressor import CompressedPolicy, CompressionRecipe, PolicyGraph, compress, measure_fidelity
from compressor.fidelity import FidelityReport
from compressor.mixed_precision import Kept, Sensitivity, keep_until, measure_sensitivities
from compressor.recipe import float32
from compressor.returns import PairedReturns, compare_returns
from compressor.torch_policy import TorchPolicy
from compressor.training import Told, Visit, train
from edgerl.practice import Practice
from fleet_protocol.spaces import branches

_VECTORS: Final = 1024
_IMAGES: Final = 128
VISITS: Final = 4
"""Of 64 steps: what a policy meets late in an episode counts too."""


@dataclass(frozen=True, slots=True)
class Compression:
    """A compressed checkpoint, and what is known of it.

    Attributes:
        policy: The file.
        fidelity: Against the float policy of the checkpoint.
        returns: Of both on the same seeds; None if no episode was asked for.
        sensitivities: Of the layers, if a floor was asked for.
        kept: What the floor has cost.
        training_s: Seconds of training.
    """

    policy: CompressedPolicy
    fidelity: FidelityReport
    returns: PairedReturns | None
    sensitivities: list[Sensitivity]
    kept: list[Kept]
    training_s: float

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON would hold it."""
        policy = self.policy
        return {
            "schema": 1,
            "recipe": str(policy.recipe),
            "sha256": policy.sha256,
            "export_ms": policy.export_ms,
            "training_s": self.training_s,
            "fidelity": self.fidelity.as_dict(),
            "returns": asdict(self.returns) if self.returns else None,
            "sensitivities": [asdict(each) for each in self.sensitivities],
            "kept": [asdict(each) for each in self.kept],
        }


def compress_checkpoint(
    saved: SavedPolicy,
    recipe: CompressionRecipe,
    practice: Practice,
    *,
    steps: int,
    episodes: int,
    floor: float | None = None,
    seed: int = 0,
    told: Told = lambda _phase, _step, _steps: None,
) -> Compression:
    """Compress what a learner has learned.

    Args:
        saved: The checkpoint.
        recipe: How.
        practice: Its environments, here.
        steps: Gradient steps of each phase of training.
        episodes: Greedy episodes of float and compressed policy on the same seeds; 0 for none.
        floor: Keep the most sensitive layers in float32 until the agreement is so high; None keeps none.
        seed: Of the training.
        told: Is told how far the training is.

    Raises:
        UnsupportedPolicyError: The recipe does not fit the policy.
        ProgramError: The environment failed.
    """
    teacher, cuts = saved.graph.without_value(), list(branches(saved.spaces[1])) or None
    started = time.monotonic()

    def visit(graph: PolicyGraph) -> Visit:
        return practice.visit(compress(graph, float32(), metadata=saved.metadata(graph, float32())).model)

    trained = train(saved.graph, recipe, visit, branches=cuts, steps=steps, seed=seed, told=told)
    training_s = time.monotonic() - started
    graph = trained.graph.without_value()
    inputs: dict[str, Any] = {"ranges": trained.ranges}
    visits = [visit(graph) for _ in range(2 * VISITS)]
    seen = _Seen.of(visits[1::2], teacher)
    if recipe.needs_calibration and trained.ranges is None:  # by others: a file must not be judged by what made it
        inputs["calibration"] = _Seen.of(visits[0::2], teacher).observations
    judge = partial(
        measure_fidelity, teacher, observations=seen.observations, states=seen.states, branches=cuts, stored=graph
    )
    sensitivities, kept = [], []
    if floor is not None:
        sensitivities = measure_sensitivities(graph, recipe, judge, **inputs)
        recipe, kept = keep_until(graph, recipe, judge, floor=floor, sensitivities=sensitivities, **inputs)
    policy = compress(graph, recipe, metadata=saved.metadata(graph, recipe), **inputs)
    exact = compress(teacher, float32(), metadata=saved.metadata(teacher, float32()))
    returns = play_both(practice, exact, policy, episodes=episodes)
    return Compression(policy, judge(policy.model), returns, sensitivities, kept, training_s)


def play_both(
    practice: Practice, exact: CompressedPolicy, policy: CompressedPolicy, *, episodes: int
) -> PairedReturns | None:
    """Play greedy episodes with a float file and a compressed one on the same seeds; None for no episodes.

    Raises:
        ProgramError: The environment failed.
    """
    if not episodes:
        return None
    return compare_returns(*(practice.returns(file.model, episodes=episodes) for file in (exact, policy)))


def seen_rows(visits: Sequence[Visit]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """What a policy saw, `[V * T * B, ...]`, and which rows of it to judge by."""
    observations = np.concatenate([visit.observations.reshape(-1, *visit.observations.shape[2:]) for visit in visits])
    count = min(len(observations), _IMAGES if observations.dtype == np.uint8 else _VECTORS)
    return observations, np.linspace(0, len(observations) - 1, count).round().astype(np.intp)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the compressed policy sees, to judge it by.

    Attributes:
        observations: `[N, ...]`.
        states: Of the float policy's memory before each; None without one.
    """

    observations: NDArray[Any]
    states: NDArray[np.float32] | None

    @classmethod
    def of(cls, visits: Sequence[Visit], teacher: PolicyGraph) -> "_Seen":
        """Take what was seen, and what the teacher's memory would have held then."""
        observations, rows = seen_rows(visits)
        if teacher.memory is None:
            return cls(observations[rows], None)
        return cls(observations[rows], np.concatenate([_states_before(teacher, visit) for visit in visits])[rows])


@torch.no_grad()
def _states_before(graph: PolicyGraph, visit: Visit) -> NDArray[np.float32]:
    """What the policy's memory holds before each row of a visit, `[T * B, H]`."""
    state, is_first = torch.from_numpy(visit.state), torch.from_numpy(visit.is_first)
    after = TorchPolicy(graph)(torch.from_numpy(visit.observations), state, is_first)["state_out"]
    before = torch.cat([state.unsqueeze(0), after[:-1]]) * is_first.logical_not().unsqueeze(-1)
    return before.flatten(0, 1).numpy()
