"""Greedy episodes in environments of their own: what a policy is worth, without the noise of exploration."""

from contextlib import AbstractContextManager

import numpy as np

from edge_actor.beholder import Beholder
from edge_actor.board_spaces import EnvironmentFault
from edge_actor.environment_copy import EnvironmentCopy
from edge_actor.policy import Policy
from edge_actor.sampling import Sampler
from edge_actor.step_clock import UNWATCHED
from fleet_protocol.exit_codes import ExitCode, ProgramError


def play_greedy_episodes(
    copies: list[EnvironmentCopy],
    policy: Policy,
    sampler: Sampler,
    *,
    episodes: int,
    seed: int,
    clock: AbstractContextManager[object] = UNWATCHED,
) -> tuple[list[float], list[int]]:
    """Play whole episodes with the most probable actions, several at a time; episode i is seeded `seed + i`.

    Which copy plays an episode changes nothing about it, so the result does not depend on their number.

    Args:
        copies: The environments.
        policy: What plays.
        sampler: Knows the greedy actions.
        episodes: How many.
        seed: Of the first one.
        clock: Entered anew for every step, while the environments' code runs.

    Returns:
        Undiscounted returns and lengths, in the order of the episodes.

    Raises:
        ProgramError: An environment failed: an evaluation is whole, or it is none.
    """
    try:
        return _play_greedy_episodes(copies, policy, sampler, episodes=episodes, seed=seed, clock=clock)
    except EnvironmentFault as fault:
        raise ProgramError(ExitCode.ENVIRONMENT_FAILED, f"the evaluation's environment: {fault}") from fault


def _play_greedy_episodes(
    copies: list[EnvironmentCopy],
    policy: Policy,
    sampler: Sampler,
    *,
    episodes: int,
    seed: int,
    clock: AbstractContextManager[object],
) -> tuple[list[float], list[int]]:
    space = copies[0].observation_space
    beholder = Beholder(space, copies=len(copies), frame_stack=policy.metadata.frame_stack)
    beholder.fit(policy)
    rows = np.zeros((len(copies), *space.shape), space.dtype)
    returns, lengths = [0.0] * episodes, [0] * episodes
    playing = list(range(min(len(copies), episodes)))  # copy -> episode, -1 when there is none left
    following = len(playing)
    with clock:
        for copy, episode in enumerate(playing):
            rows[copy] = copies[copy].reset(seed + episode)
            beholder.begin_episode(copy, rows[copy])
    while any(episode >= 0 for episode in playing):
        beholder.infer(policy)
        actions = sampler.greedy(policy.outputs)
        begun: list[int] = []
        with clock:
            for copy in (copy for copy, episode in enumerate(playing) if episode >= 0):
                episode = playing[copy]
                rows[copy], reward, terminated, truncated = copies[copy].step(actions[copy])
                returns[episode] += reward
                lengths[episode] += 1
                if terminated or truncated:
                    playing[copy] = following if following < episodes else -1
                    if following < episodes:
                        rows[copy] = copies[copy].reset(seed + following)
                        begun.append(copy)
                    following += 1
        beholder.see(rows)
        for copy in begun:
            beholder.begin_episode(copy, rows[copy])
    return returns, lengths
