"""Frame stacks: what a policy saw is rebuilt slowly, frame by frame, from what the window carries (ADR 6)."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from copies import copies_of
from policies import make_policy_file

from edge_actor.beholder import Beholder
from edge_actor.evaluation import play_greedy_episodes
from edge_actor.policy import Policy
from edge_actor.rollout import Rollout
from edge_actor.sampling import make_sampler
from fleet_protocol.spaces import BoxSpec, DiscreteSpec
from fleet_protocol.trajectory import Trajectory, pack_trajectory, unpack_trajectory

STACK = 3


class Numbered(gymnasium.Env[np.ndarray, int]):
    """Shows (copy, episode, step); its episodes have lengths 1, 2, 5, 1, 2, 5, ..., and every third one terminates."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, number: int) -> None:
        self.number, self.episode = number, -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self.episode, self.age = self.episode + 1, 0
        return self._show(), {}

    def step(self, action: int):
        self.age += 1
        over = self.age == (1, 2, 5)[self.episode % 3]
        ends = over and self.episode % 3 == 2
        return self._show(), 1.0, ends, over and not ends, {}

    def _show(self) -> np.ndarray:
        return np.array([self.number, self.episode, self.age], np.float32)


class Seeing(Policy):
    """Remembers all that it was shown."""

    __slots__ = ("seen",)

    def __init__(self, model: bytes, *, copies: int) -> None:
        super().__init__(model, copies=copies)
        self.seen: list[np.ndarray] = []

    def observe(self, observations: np.ndarray) -> None:
        self.seen.append(observations.copy())
        super().observe(observations)


def stacks_of(window: Trajectory) -> np.ndarray:
    """What acted at each step, rebuilt as ADR 6 says: [T, N, K * D]."""
    steps, copies = window.rewards.shape
    stacks: list[list[np.ndarray]] = []
    for step in range(steps):
        row: list[np.ndarray] = []
        for copy in range(copies):
            begun = max((t for t in range(step + 1) if window.is_first[t, copy]), default=-STACK)
            frames = [window.observations[max(step - back, begun) + STACK - 1, copy] for back in reversed(range(STACK))]
            row.append(np.concatenate(frames))
        stacks.append(row)
    return np.array(stacks)


@pytest.mark.parametrize("unroll_length", [1, 2, 7])
def test_the_window_carries_exactly_the_frames_that_the_policy_saw(unroll_length: int):
    model = make_policy_file(observation_size=3, frame_stack=STACK)
    policy = Seeing(model, copies=2)
    sampler = make_sampler(
        DiscreteSpec(n=3), unroll_length=unroll_length, copies=2, wire_scale=0.05, rng=np.random.default_rng(0)
    )
    rollout = Rollout(
        copies_of([Numbered(0), Numbered(1)]),
        unroll_length=unroll_length,
        frame_stack=STACK,
        sampler=sampler,
        seed=None,
    )
    for _ in range(12):
        policy.seen.clear()
        window = unpack_trajectory(pack_trajectory(rollout.fill_window(lambda: policy)[0]))
        assert window.frame_stack == STACK
        assert window.observations.shape == (unroll_length + STACK, 2, 3)
        np.testing.assert_array_equal(stacks_of(window), np.array(policy.seen))


def test_a_stack_moves_every_pixel_of_an_image():
    rng = np.random.default_rng(0)
    spec = BoxSpec(shape=(5, 4, 2), dtype="uint8")
    beholder = Beholder(spec, copies=3, frame_stack=4)
    frames = [rng.integers(0, 256, (3, 5, 4, 2), np.uint8) for _ in range(9)]
    for copy in range(3):
        beholder.begin_episode(copy, frames[0][copy])
    for frame in frames[1:]:
        beholder.see(frame)
    np.testing.assert_array_equal(beholder.stack, np.concatenate(frames[-4:], axis=-1))
    np.testing.assert_array_equal(beholder.frames(), np.array(frames[-4:]))
    beholder.see_instead(frames[0])
    np.testing.assert_array_equal(beholder.stack, np.concatenate([*frames[-4:-1], frames[0]], axis=-1))
    np.testing.assert_array_equal(beholder.newest(1), frames[0][1])
    beholder.begin_episode(1, frames[5][1])
    np.testing.assert_array_equal(beholder.stack[1], np.concatenate([frames[5][1]] * 4, axis=-1))
    np.testing.assert_array_equal(beholder.stack[2], np.concatenate([*frames[-4:-1], frames[0]], axis=-1)[2])


def test_an_evaluation_stacks_as_a_rollout_does():
    model = make_policy_file(observation_size=3, frame_stack=STACK)
    together, alone = Seeing(model, copies=3), Seeing(model, copies=1)
    for policy in (together, alone):
        copies = policy.observation.shape[0]
        sampler = make_sampler(
            DiscreteSpec(n=3), unroll_length=1, copies=copies, wire_scale=0.05, rng=np.random.default_rng(0)
        )
        environments = [Numbered(0) for _ in range(copies)]
        _, lengths = play_greedy_episodes(copies_of(environments), policy, sampler, episodes=3, seed=0)
        assert sorted(lengths) in ([1, 1, 1], [1, 2, 5])
    firsts = [stack[0].tolist() for stack in alone.seen]
    assert firsts[:3] == [[0, 0, 0] * 3, [0, 1, 0] * 3, [0, 1, 0, 0, 1, 0, 0, 1, 1]]
