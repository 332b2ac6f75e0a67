"""Catch in 84x84 pixels: a ball falls, and a paddle has to be below it.

The game of Mnih et al. 2014 (https://arxiv.org/abs/1406.6247), several balls an episode, so that its best return is a
round number.
"""

from typing import Any, Final

import gymnasium
import numpy as np
from numpy.typing import NDArray

_SIZE: Final = 84
_CELL: Final = 6
_GRID: Final = _SIZE // _CELL
_BRIGHT: Final = 255


class Catch(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """Observes uint8 `[84, 84, 1]`; acts left, stay, right; gets 1 for a ball caught and -1 for one missed.

    The paddle is three cells wide and moves one cell a step; a ball takes 13 steps to fall. All balls can be caught,
    so the best return of an episode is the number of its balls.

    Args:
        balls: How many fall in an episode.
    """

    observation_space = gymnasium.spaces.Box(0, _BRIGHT, (_SIZE, _SIZE, 1), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, balls: int = 10) -> None:
        self._balls = balls
        self._left = balls
        self._paddle = self._column = self._row = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin with the paddle in the middle."""
        super().reset(seed=seed, options=options)
        self._left = self._balls
        self._paddle = _GRID // 2
        self._drop()
        return self._draw(), {}

    def step(self, action: int | np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Move the paddle, and let the ball fall by one cell."""
        self._paddle = min(_GRID - 1, max(0, self._paddle + int(action) - 1))
        self._row += 1
        reward = 0.0
        if self._row == _GRID - 1:
            reward = 1.0 if abs(self._paddle - self._column) <= 1 else -1.0
            self._left -= 1
            self._drop()
        return self._draw(), reward, self._left == 0, False, {}

    def _drop(self) -> None:
        self._row, self._column = 0, int(self.np_random.integers(_GRID))

    def _draw(self) -> NDArray[np.uint8]:
        frame = np.zeros((_SIZE, _SIZE, 1), np.uint8)
        top, left = self._row * _CELL, self._column * _CELL
        frame[top : top + _CELL, left : left + _CELL] = _BRIGHT
        frame[_SIZE - _CELL :, max(0, self._paddle - 1) * _CELL : (self._paddle + 2) * _CELL] = _BRIGHT
        return frame
