"""One copy of the run's environment: somebody else's code, so what it gives is checked, and it may be made anew."""

from collections.abc import Callable
from contextlib import suppress
from math import isfinite
from typing import Any

from numpy.typing import NDArray

from edge_actor.board_spaces import (
    EnvironmentFault,
    action_shaper,
    action_spec,
    observation_bounds,
    observation_reader,
    observation_spec,
)
from edge_actor.environments import Environment

Outcome = tuple[NDArray[Any], float, Any, Any]
"""What a step gave: the observation as a row (not yet cast), a finite reward, terminated, truncated."""


class EnvironmentCopy:
    """An environment whose observations come as rows, and whose failures have one name.

    Args:
        make: Makes the environment; asked again when a fault calls for another one.

    Attributes:
        observation_space: As it travels.
        action_space: As it travels.
        bounds: Of the observation, as `observation_bounds` has them.

    Raises:
        ProgramError: It cannot be made, or its spaces are not supported.
    """

    def __init__(self, make: Callable[[], Environment]) -> None:
        self._make = make
        self._environment = make()
        observation, action = self._environment.observation_space, self._environment.action_space
        self.observation_space = observation_spec(observation)
        self.action_space = action_spec(action)
        self.bounds = observation_bounds(observation)
        self._read = observation_reader(observation)
        self._shape = action_shaper(action)

    def reset(self, seed: int | None = None) -> NDArray[Any]:
        """Begin an episode and return its first observation as a row.

        Raises:
            EnvironmentFault: It raised, or gave something else than an observation of its space.
        """
        try:
            observation, _ = self._environment.reset(seed=seed)
        except Exception as error:
            raise EnvironmentFault(f"reset failed: {type(error).__name__}: {error}") from error
        return self._read(observation)

    def step(self, action: Any) -> Outcome:  # noqa: ANN401 - an action of any space
        """Take one step with a flat action.

        Raises:
            EnvironmentFault: It raised, or gave something else than a step of its spaces.
        """
        if self._shape is not None:
            action = self._shape(action)
        try:
            observation, reward, terminated, truncated, _ = self._environment.step(action)
            reward = float(reward)
        except Exception as error:
            raise EnvironmentFault(f"step failed: {type(error).__name__}: {error}") from error
        if not isfinite(reward):
            raise EnvironmentFault(f"step gave the reward {reward}")
        return self._read(observation), reward, terminated, truncated

    def remake(self) -> None:
        """Close the environment, whatever it says to that, and make another one.

        Raises:
            ProgramError: It cannot be made.
        """
        self.close()
        self._environment = self._make()

    def close(self) -> None:
        """Let the environment let go of what it holds; a relay, say."""
        with suppress(Exception):
            self._environment.close()
