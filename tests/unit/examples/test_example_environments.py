"""The examples are sound Gymnasium environments, and their best policies reach what their docs say."""

import itertools
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


def test_catch_plays_by_its_rules_whatever_the_paddle_does():
    environment, rng = Catch(balls=4), np.random.default_rng(5)
    frame, _ = environment.reset(seed=2)
    paddle, column, landed = 7, -1, []
    for step in range(4 * 13):
        row = step % 13 + 1
        if row == 1:
            column = next(cell for cell in range(14) if frame[0, 6 * cell, 0])
        action = int(rng.integers(3))
        paddle = min(13, max(0, paddle + (-1, 0, 1)[action]))
        below = {(13, paddle - 1), (13, paddle), (13, paddle + 1)}
        frame, reward, terminated, truncated, _ = environment.step(action)
        assert (terminated, truncated) == (step == 4 * 13 - 1, False)
        if row == 13:
            assert reward == (1 if (13, column) in below else -1)
            landed.append(reward)
        else:
            assert reward == 0
            assert bright_cells(frame) == {cell for cell in below if 0 <= cell[1] <= 13} | {(row, column)}
    assert set(landed) == {1, -1}


def bright_cells(frame: np.ndarray) -> set[tuple[int, int]]:
    """Pixel by pixel; a cell is bright as a whole or dark as a whole."""
    pixels = {(y, x) for y in range(84) for x in range(84) if frame[y, x, 0] == 255}
    cells = {(y // 6, x // 6) for y, x in pixels}
    assert len(pixels) == 36 * len(cells)
    return cells


def test_in_the_t_maze_a_memory_is_worth_everything():
    def with_memory() -> Callable[[np.ndarray], int]:
        sign = [0.0]

        def act(observation: np.ndarray) -> int:
            if observation[0]:
                sign[0] = observation[0]
            return FORWARD if not observation[1] else (UP if sign[0] > 0 else DOWN)

        return act

    assert returns_of(TMaze(), with_memory(), 30) == [1.0] * 30
    assert returns_of(TMaze(length=2), lambda _seen: UP, 1) == [pytest.approx(-0.8)]


@pytest.mark.parametrize("length", [2, 3, 8])
def test_in_the_t_maze_no_policy_without_a_memory_is_above_zero(length: int):
    """All 256 of them that are deterministic: an action for each of the four things that can be seen."""

    def seen_as(observation: np.ndarray) -> int:
        sign, at_junction, _ = observation
        return 3 if at_junction else int(sign) + 1

    environment = TMaze(length)
    seed_of_sign = {environment.reset(seed=seed)[0][0]: seed for seed in range(20)}
    assert set(seed_of_sign) == {-1.0, 1.0}
    means: list[float] = []
    for policy in itertools.product(range(4), repeat=4):
        total = 0.0
        for seed in seed_of_sign.values():
            observation, _ = environment.reset(seed=seed)
            over = False
            while not over:
                observation, reward, terminated, truncated, _ = environment.step(policy[seen_as(observation)])
                total, over = total + reward, terminated or truncated
        means.append(total / 2)
    assert max(means) == 0


def test_a_t_maze_that_would_need_no_memory_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        TMaze(length=1)


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
    over = False
    while not over:
        assert seen.tolist() == truth[[0, 2]].tolist()
        seen, *outcome = masked.step(1)
        truth, *expected = whole.step(1)
        assert outcome == expected
        over = expected[1] or expected[2]
    assert seen.tolist() == truth[[0, 2]].tolist()
    masked.close()
