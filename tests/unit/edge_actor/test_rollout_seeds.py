"""Seeds decide what happens: each copy and each greedy episode has its own, whoever plays it."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from copies import copies_of
from policies import make_policy_file

from edge_actor.evaluation import play_greedy_episodes
from edge_actor.policy import Policy
from edge_actor.rollout import Rollout
from edge_actor.sampling import make_sampler
from fleet_protocol.spaces import DiscreteSpec


class Dice(gymnasium.Env[np.ndarray, int]):
    """Shows random numbers; an episode lasts as long as its first number says, and pays what it shows."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self) -> None:
        self.seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.left = int(self.np_random.integers(1, 9))
        return self._show(), {}

    def step(self, action: int):
        self.left -= 1
        shown = self._show()
        return shown, float(shown[0]) + action, self.left == 0, False, {}

    def _show(self) -> np.ndarray:
        return self.np_random.standard_normal(2).astype(np.float32)


def make_parts(copies: int, steps: int = 1) -> tuple[list[Any], Policy, Any]:
    sampler = make_sampler(
        DiscreteSpec(n=3), unroll_length=steps, copies=copies, wire_scale=0.05, rng=np.random.default_rng(0)
    )
    return [Dice() for _ in range(copies)], Policy(make_policy_file(seed=2), copies=copies), sampler


def test_copy_n_is_first_reset_with_seed_plus_n_and_then_goes_its_own_way():
    environments, policy, sampler = make_parts(3, steps=20)
    rollout = Rollout(copies_of(environments), unroll_length=20, frame_stack=1, sampler=sampler, seed=70)
    rollout.fill_window(lambda: policy)
    assert [environment.seeds[0] for environment in environments] == [70, 71, 72]
    assert all(set(environment.seeds[1:]) == {None} for environment in environments)


def test_the_same_seeds_give_the_same_windows():
    windows: list[Any] = []
    for _ in range(2):
        environments, policy, sampler = make_parts(3, steps=20)
        rollout = Rollout(copies_of(environments), unroll_length=20, frame_stack=1, sampler=sampler, seed=70)
        windows.append(rollout.fill_window(lambda: policy)[0])  # noqa: B023 - called at once
    for name in ("observations", "actions", "rewards", "terminated", "behavior_params"):
        np.testing.assert_array_equal(getattr(windows[0], name), getattr(windows[1], name))


@pytest.mark.parametrize("copies", [1, 2, 5, 20])
def test_greedy_episodes_are_those_of_playing_one_after_the_other(copies: int):
    environments, policy, sampler = make_parts(copies)
    returns, lengths = play_greedy_episodes(copies_of(environments), policy, sampler, episodes=9, seed=500)
    single, alone = Dice(), Policy(make_policy_file(seed=2), copies=1)
    for episode in range(9):
        alone.observation[0], _ = single.reset(seed=500 + episode)
        total, length, over = 0.0, 0, False
        while not over:
            alone.infer()
            alone.observation[0], reward, over, _, _ = single.step(int(np.argmax(alone.outputs[0][0])))
            total, length = total + reward, length + 1
        assert (returns[episode], lengths[episode]) == (pytest.approx(total), length)
    assert len(set(lengths)) > 1
    used = sorted(seed for environment in environments for seed in environment.seeds)
    assert used == list(range(500, 509))
