"""The T-maze: a sign at the start tells which way to turn at the end (Bakker 2001).

Nothing at the junction tells it, so a policy without a memory gets 0 on average, and one with a memory 1.
"""

from typing import Any, Final

import gymnasium
import numpy as np
from numpy.typing import NDArray

FORWARD, BACK, UP, DOWN = range(4)
_STANDING_STILL: Final = -0.1
_PATIENCE: Final = 4
_SHORTEST: Final = 2
"""With one step, whoever stands still for one of the signs has told them apart when the sign is gone."""


class TMaze(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Observes float32 `[sign, at the junction, in the corridor]`; acts forward, back, up, down.

    The sign (-1 or 1) is shown in the first observation only. At the junction, up is right for the sign 1 and down for
    -1: reward 1 or -1, and the episode ends. A step that leads nowhere costs 0.1.

    Args:
        length: Steps from the start to the junction, at least 2.

    Raises:
        ValueError: The corridor is too short to need a memory.
    """

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(4)

    def __init__(self, length: int = 8) -> None:
        if length < _SHORTEST:
            raise ValueError(f"length is {length}: expected at least {_SHORTEST}, for a shorter maze needs no memory")
        self._length = length
        self._place = self._steps = 0
        self._sign = 1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin at the start, with a new sign."""
        super().reset(seed=seed, options=options)
        self._sign = 1 if self.np_random.random() < 0.5 else -1  # noqa: PLR2004 - a fair coin
        self._place = self._steps = 0
        return self._observe(), {}

    def step(self, action: int | np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Walk, or turn."""
        self._steps += 1
        at_junction = self._place == self._length
        if at_junction and action in (UP, DOWN):
            is_right = (action == UP) == (self._sign > 0)
            return self._observe(), 1.0 if is_right else -1.0, True, False, {}
        before = self._place
        if action in (FORWARD, BACK):
            self._place = min(self._length, max(0, self._place + (1 if action == FORWARD else -1)))
        reward = 0.0 if self._place > before else _STANDING_STILL
        return self._observe(), reward, False, self._steps >= _PATIENCE * self._length, {}

    def _observe(self) -> NDArray[np.float32]:
        sign = self._sign if self._steps == 0 else 0
        at_junction = self._place == self._length
        return np.array([sign, at_junction, not at_junction], np.float32)
