"""Play a policy on this machine as a board would: what it sees, for students, and what it is worth."""

from typing import Final, Self

import numpy as np
import torch

from cloud_learner.batching import make_batch
from compressor.training import Visit
from edge_actor.environment_copy import EnvironmentCopy
from edge_actor.environments import make_environment
from edge_actor.evaluation import play_greedy_episodes
from edge_actor.policy import Policy
from edge_actor.rollout import Rollout
from edge_actor.sampling import Sampler, make_sampler
from fleet_protocol.messages import RunSpec
from fleet_protocol.spaces import branches

_STEPS: Final = 64
"""Of each environment in a visit."""
_FIRST_GRID: Final = 4 / 127
"""The unit of logits in the first visit; later ones take it from what they have met."""


class Practice:
    """Environments of a run on this machine; a context manager.

    Args:
        run: What is played.
        allowed: Modules beside Gymnasium's own whose environments may be made here.
        copies: Environments side by side.
        seed: Of the environments and actions.

    Attributes:
        run: As it came.
        spaces: What is observed and done.

    Raises:
        ProgramError: The environment is not there, not allowed, or fails.
    """

    def __init__(self, run: RunSpec, *, allowed: list[str], copies: int = 16, seed: int = 1) -> None:
        self.run = run
        self._allowed = ["gymnasium", *allowed]
        self._rng = np.random.default_rng(seed)
        self._copies = [self._copy() for _ in range(copies)]
        self.spaces = (self._copies[0].observation_space, self._copies[0].action_space)
        self._rollout = Rollout(
            self._copies, unroll_length=_STEPS, frame_stack=run.frame_stack, sampler=self._sampler(_STEPS), seed=seed
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for copy in self._copies:
            copy.close()

    def visit(self, model: bytes) -> Visit:
        """Have a file act for a while, from where the last one has left off.

        Raises:
            BadPolicyFile: It cannot be loaded.
        """
        policy = Policy(model, copies=len(self._copies))
        trajectory, _ = self._rollout.fill_window(lambda: policy)
        batch = make_batch([trajectory], torch.device("cpu"), branches(self.spaces[1]))
        state = None if batch.initial_state is None else batch.initial_state.numpy().copy()
        return Visit(batch.observations[:-1].numpy().copy(), batch.is_first[:-1].numpy().copy(), state)

    def returns(self, model: bytes, *, episodes: int, seed: int = 10_000) -> list[float]:
        """Play greedy episodes with a file, as a board does; episode i is seeded `seed + i`.

        Raises:
            ProgramError: The environment failed.
            BadPolicyFile: It cannot be loaded.
        """
        copies = [self._copy() for _ in range(min(len(self._copies), episodes))]
        policy = Policy(model, copies=len(copies))
        try:
            return play_greedy_episodes(copies, policy, self._sampler(1), episodes=episodes, seed=seed)[0]
        finally:
            for copy in copies:
                copy.close()

    def _copy(self) -> EnvironmentCopy:
        run = self.run
        return EnvironmentCopy(lambda: make_environment(run.env_id, dict(run.env_kwargs), allowed=self._allowed))

    def _sampler(self, unroll_length: int) -> Sampler:
        return make_sampler(
            self.spaces[1],
            unroll_length=unroll_length,
            copies=len(self._copies),
            wire_scale=_FIRST_GRID,
            rng=self._rng,
        )
