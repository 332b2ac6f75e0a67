"""The examples are sound Gymnasium environments, and their best policies reach what their docs say."""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from edgerl_examples.catch import Catch
from edgerl_examples.masked_cartpole import MaskedCartPole
from edgerl_examples.thermostat.environment import Thermostat
from edgerl_examples.tmaze import DOWN, FORWARD, UP, TMaze
from gymnasium.utils.env_checker import check_env

ALL: list[Callable[[], gymnasium.Env[Any, Any]]] = [Catch, TMaze, MaskedCartPole, Thermostat]


@pytest.mark.parametrize("make", ALL)
def test_gymnasiums_own_checker_has_nothing_to_say(make: Callable[[], gymnasium.Env[Any, Any]]):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*infinity.*")  # an unbounded Box is meant to be one
        check_env(make(), skip_render_check=True)


@pytest.mark.parametrize("make", ALL)
def test_a_seed_fixes_what_happens(make: Callable[[], gymnasium.Env[Any, Any]]):
    def play() -> list[Any]:
        environment = make()
        rng = np.random.default_rng(1)
        seen: list[Any] = [environment.reset(seed=3)[0].tolist()]
        for _ in range(50):
            observation, reward, terminated, truncated, _ = environment.step(int(rng.integers(2)))
            seen.append((observation.tolist(), reward, terminated, truncated))
            if terminated or truncated:
                environment.reset()
        return seen

    assert play() == play()


def returns_of(environment: gymnasium.Env[Any, Any], act: Callable[[Any], int], episodes: int) -> list[float]:
    returns: list[float] = []
    for seed in range(episodes):
        observation, _ = environment.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = environment.step(act(observation))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


def test_whoever_follows_the_ball_catches_all_of_them():
    def follow(frame: np.ndarray) -> int:
        ball = np.flatnonzero(frame[:78, :, 0].any(axis=0)).mean() if frame[:78].any() else 0
        paddle = np.flatnonzero(frame[80, :, 0]).mean()
        return 1 + int(np.sign(round((ball - paddle) / 6)))

    assert returns_of(Catch(), follow, 20) == [10.0] * 20
    assert returns_of(Catch(balls=3), follow, 3) == [3.0] * 3


def test_catch_draws_a_ball_of_one_cell_and_a_paddle_of_three():
    environment = Catch()
    frame, _ = environment.reset(seed=0)
    assert sorted(np.unique(frame).tolist()) == [0, 255]
    assert (frame[:6] > 0).sum() == 36
    assert (frame[78:] > 0).sum() == 3 * 36
    for step in range(1, 13):
        frame, *_ = environment.step(1)
        assert (frame[6 * step : 6 * step + 6] > 0).any()


def test_in_the_t_maze_a_memory_is_worth_everything():
    def with_memory() -> Callable[[np.ndarray], int]:
        sign = [0.0]

        def act(observation: np.ndarray) -> int:
            if observation[0]:
                sign[0] = observation[0]
            return FORWARD if not observation[1] else (UP if sign[0] > 0 else DOWN)

        return act

    assert returns_of(TMaze(), with_memory(), 30) == [1.0] * 30
    for guess in (UP, DOWN):
        returns = returns_of(TMaze(), lambda seen, guess=guess: guess if seen[1] else FORWARD, 400)
        assert abs(np.mean(returns)) < 0.15
    assert returns_of(TMaze(length=2), lambda _seen: UP, 1) == [pytest.approx(-0.8)]


def test_a_t_maze_shows_its_sign_once():
    environment = TMaze(length=3)
    first, _ = environment.reset(seed=0)
    assert abs(first[0]) == 1
    later = [environment.step(FORWARD)[0].tolist() for _ in range(3)]
    assert later == [[0, 0, 1], [0, 0, 1], [0, 1, 0]]


def test_masked_cartpole_is_cartpole_without_its_velocities():
    masked, whole = MaskedCartPole(), gymnasium.make("CartPole-v1")
    seen, _ = masked.reset(seed=7)
    truth, _ = whole.reset(seed=7)
    for action in (0, 1, 1, 0, 1):
        assert seen.tolist() == truth[[0, 2]].tolist()
        seen, truth = masked.step(action)[0], whole.step(action)[0]
