"""One poisoned board of ten is set aside by what it sends; honest boards never are."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest

from cloud_learner.outliers import OutlierGate
from fleet_protocol.trajectory import Trajectory

T, N = 16, 4
BOARDS = [f"b{number}" for number in range(10)]


def play(environment: gymnasium.Env[Any, Any], rng: np.random.Generator, *, decided: float = 0.1) -> Trajectory:
    """A window of real steps with random actions."""
    observations, rewards, done = [], [], []
    observation, _ = environment.reset(seed=int(rng.integers(2**31)))
    observations.append(observation)
    for _ in range(T * N):
        observation, reward, terminated, truncated, _ = environment.step(int(rng.integers(environment.action_space.n)))  # type: ignore[attr-defined]
        if terminated or truncated:
            observation, _ = environment.reset()
        observations.append(observation)
        rewards.append(float(reward))
        done.append(terminated)
    frames = np.array([*observations[: T * N], *[observations[-1]] * N]).reshape(T + 1, N, -1).astype(np.float32)
    falses = np.zeros((T, N), np.bool_)
    return Trajectory(
        head="categorical",
        observations=frames,
        actions=np.zeros((T, N), np.uint8),
        rewards=np.array(rewards, np.float32).reshape(T, N),
        terminated=np.array(done).reshape(T, N),
        truncated=falses,
        is_first=falses,
        behavior_params=np.rint(rng.normal(0, 30 * decided, (T, N, 1))).astype(np.int8),
        wire_scale=0.05,
        policy_versions=np.ones(T, np.int64),
        final_steps=np.empty(0, np.int32),
        final_observations=np.empty((0, frames.shape[2]), np.float32),
    )


POISONS: dict[str, dict[str, Any]] = {
    "rewards x 1e6": {"rewards": lambda window: window.rewards * 1e6},
    "observations x 1e4": {"observations": lambda window: window.observations * 1e4},
    "a frozen sensor": {"observations": lambda window: np.ones_like(window.observations)},
    "forged logits": {
        "behavior_params": lambda window: np.full_like(window.behavior_params, 127),
        "wire_scale": lambda _: 1.0,
    },
}


@pytest.mark.parametrize("poison", POISONS)
def test_a_poisoned_board_is_set_aside_and_no_other(poison: str):
    gate, rng, environment = OutlierGate(), np.random.default_rng(0), gymnasium.make("CartPole-v1")
    refused: dict[str, int] = dict.fromkeys(BOARDS, 0)
    for turn in range(20):
        for board in BOARDS:
            window = play(environment, rng, decided=0.03)
            if board == "b7":
                window = replace(window, **{name: change(window) for name, change in POISONS[poison].items()})
            judged = gate.judge(board, window)
            if turn:  # in its first turn a fleet does not know itself
                refused[board] += judged is not None
    # A frozen sensor is known by a run of windows.
    assert refused.pop("b7") >= 15
    assert set(refused.values()) == {0}


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
def test_no_honest_board_is_refused_while_policies_become_decided(env_id: str):
    gate, rng, environment = OutlierGate(), np.random.default_rng(1), gymnasium.make(env_id)
    for turn in range(12):
        for board in BOARDS[:5]:
            assert gate.judge(board, play(environment, rng, decided=0.02 * 2**turn)) is None
    environment.close()


def test_the_first_board_with_a_trained_policy_is_not_odd():
    gate, rng, environment = OutlierGate(), np.random.default_rng(5), gymnasium.make("CartPole-v1")
    for _ in range(6):
        for board in BOARDS:
            assert gate.judge(board, replace(play(environment, rng, decided=3.0), wire_scale=5e-5)) is None
    for _ in range(6):
        assert gate.judge("b3", replace(play(environment, rng, decided=3.0), wire_scale=0.2)) is None


def test_the_first_reward_of_a_sparse_task_is_learned_from():
    gate, rng, environment = OutlierGate(), np.random.default_rng(2), gymnasium.make("CartPole-v1")

    def window(first: float) -> Trajectory:
        rewards = np.zeros((T, N), np.float32)
        rewards[3, 1] = first
        return replace(play(environment, rng), rewards=rewards)

    for _ in range(6):
        for board in BOARDS:
            assert gate.judge(board, window(0.0)) is None
    assert gate.judge("b3", window(100.0)) is None
    for _ in range(6):
        for board in BOARDS:
            assert gate.judge(board, window(-0.01)) is None
    assert gate.judge("b3", window(100.0)) is None


def test_few_boards_judge_nobody():
    gate, rng, environment = OutlierGate(), np.random.default_rng(3), gymnasium.make("CartPole-v1")
    for _ in range(10):
        for board in BOARDS[:3]:
            window = play(environment, rng)
            if board == "b2":
                window = replace(window, rewards=window.rewards * 1e6)
            assert gate.judge(board, window) is None


def test_a_fleet_that_changes_together_is_not_odd():
    gate, rng, environment = OutlierGate(), np.random.default_rng(4), gymnasium.make("CartPole-v1")
    for scale in (1.0, 10.0, 100.0, 1000.0):
        for _ in range(6):
            for board in BOARDS:
                window = play(environment, rng)
                assert gate.judge(board, replace(window, rewards=window.rewards * scale)) is None
