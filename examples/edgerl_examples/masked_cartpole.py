"""CartPole-v1 without its velocities: they have to be remembered, or seen in a stack of frames."""

from typing import Any, Final

import gymnasium
import numpy as np
from numpy.typing import NDArray

_SEEN: Final = (0, 2)  # position and angle; 1 and 3 are their velocities


class MaskedCartPole(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Observes float32 `[position, angle]`; everything else is CartPole-v1's."""

    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        self._cartpole: gymnasium.Env[Any, Any] = gymnasium.make("CartPole-v1", disable_env_checker=True)
        whole = self._cartpole.observation_space
        assert isinstance(whole, gymnasium.spaces.Box)  # noqa: S101 - CartPole's
        self.observation_space = gymnasium.spaces.Box(whole.low[list(_SEEN)], whole.high[list(_SEEN)], dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin as CartPole does."""
        super().reset(seed=seed, options=options)
        observation, info = self._cartpole.reset(seed=seed, options=options)
        return observation[list(_SEEN)], info

    def step(self, action: int | np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Push the cart."""
        observation, reward, terminated, truncated, info = self._cartpole.step(action)
        return observation[list(_SEEN)], float(reward), terminated, truncated, info

    def close(self) -> None:
        """Let CartPole go."""
        self._cartpole.close()
