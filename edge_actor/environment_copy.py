"""One copy of the run's environment: somebody else's code, so what it gives is checked, and it may be made anew."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple

from numpy.typing import NDArray

from edge_actor.board_spaces import (
    BrokenContract,
    action_shaper,
    action_spec,
    observation_bounds,
    observation_reader,
    observation_spec,
)
from edge_actor.environments import Environment


class EnvironmentFault(Exception):
    """An environment raised, or broke Gymnasium's contract; says what happened."""


class Outcome(NamedTuple):
    """What a step gave.

    Attributes:
        observation: A row as it travels, not yet cast.
        reward: Finite.
    """

    observation: NDArray[Any]
    reward: float
    terminated: bool
    truncated: bool


class EnvironmentCopy:
    """An environment whose observations come as rows, and whose failures have one name.

    Args:
        make: Makes the environment; asked again when a fault calls for another one.
        clock: Entered whenever the environment's code runs.

    Attributes:
        observation_space: As it travels.
        action_space: As it travels.
        bounds: Of the observation, as `observation_bounds` has them.

    Raises:
        ProgramError: It cannot be made, or its spaces are not supported.
    """

    def __init__(self, make: Callable[[], Environment], clock: AbstractContextManager[object]) -> None:
        self._make = make
        self._clock = clock
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
            with self._clock:
                observation, _ = self._environment.reset(seed=seed)
        except Exception as error:
            raise EnvironmentFault(f"reset failed: {type(error).__name__}: {error}") from error
        return self._checked(observation, "reset")

    def step(self, action: Any) -> Outcome:  # noqa: ANN401 - an action of any space
        """Take one step with a flat action.

        Raises:
            EnvironmentFault: It raised, or gave something else than a step of its spaces.
        """
        try:
            with self._clock:
                observation, reward, terminated, truncated, _ = self._environment.step(self._shape(action))
            outcome = Outcome(observation, float(reward), bool(terminated), bool(truncated))
        except Exception as error:
            raise EnvironmentFault(f"step failed: {type(error).__name__}: {error}") from error
        if not math.isfinite(outcome.reward):
            raise EnvironmentFault(f"step gave the reward {outcome.reward}")
        return outcome._replace(observation=self._checked(observation, "step"))

    def remake(self) -> None:
        """Close the environment, whatever it says to that, and make another one.

        Raises:
            ProgramError: It cannot be made.
        """
        self.close()
        self._environment = self._make()

    def close(self) -> None:
        """Let the environment let go of what it holds; a relay, say."""
        with suppress(Exception), self._clock:
            self._environment.close()

    def _checked(self, observation: Any, call: str) -> NDArray[Any]:  # noqa: ANN401 - whatever it gave
        try:
            return self._read(observation)
        except BrokenContract as error:
            raise EnvironmentFault(f"{call} gave {error}") from error
