"""Boards that send what no other board sends: sound by every rule, and yet poison. They are set aside.

A window is boiled down to a few numbers on a logarithmic scale: how large its rewards are, how much its observations
move, how decided the policy claims to have been. A board is known by the medians of its last windows, and the fleet by
the median of its boards, which a few bad ones cannot move.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fleet_protocol.trajectory import Trajectory

_FEWEST_BOARDS: Final = 4
"""With less there is no majority that could tell who is odd."""
_REMEMBERED: Final = 15
_FEWEST_WINDOWS: Final = 5
_NOTHING: Final = 1e-6
_UNDECIDED: Final = 0.1
"""Logits below are all as good as none: those of an untrained network are a thousand times smaller than what comes."""

_REWARDS: Final = 0
_NAMES: Final = ("size of rewards", "movement of observations", "certainty of actions")
_TOO_LARGE: Final = np.log([1e5, 1e3, 3e2])
"""A first reward may be a thousand times the cost of a step, so the bound is far; poison is further."""
_TOO_SMALL: Final = np.array([-np.inf, np.log(1e-3), -np.inf])
"""Only observations that have stopped to move are odd; rewards may be rare, and a policy undecided."""

Features = NDArray[np.float64]


class OutlierGate:
    """Knows the fleet's windows, and says which one has no place among them. Used by one thread."""

    def __init__(self) -> None:
        self._windows: dict[str, deque[Features]] = {}
        self._known: dict[str, Features] = {}

    def judge(self, board_id: str, window: Trajectory) -> str | None:
        """Take note of a window; a sentence says why it should not be learned from, None that it may be.

        A window that is judged odd counts for its board all the same: a board that has changed for good, as all others
        do in the end, is no outlier any more when they follow.
        """
        features = _features(window)
        sentence = self._oddity(board_id, features)
        windows = self._windows.setdefault(board_id, deque(maxlen=_REMEMBERED))
        windows.append(features)
        self._known[board_id] = _known_by(windows)
        return sentence

    def _oddity(self, board_id: str, features: Features) -> str | None:
        others = [known for board, known in self._known.items() if board != board_id]
        if len(others) < _FEWEST_BOARDS - 1:
            return None
        centre = np.median(others, axis=0)
        own = [*self._windows.get(board_id, ()), features]
        # One huge window is too many; one that is small may be a quiet one, and only a run of them says something.
        low = np.median(own, axis=0) if len(own) >= _FEWEST_WINDOWS else np.maximum(centre, features)
        is_known = centre > np.log(2 * _NOTHING)  # where all others send zeros, nobody can be told apart
        odd = is_known & ((features - centre > _TOO_LARGE) | (low - centre < _TOO_SMALL))
        if not odd.any():
            return None
        worst = int(odd.argmax())
        factor = float(np.exp(features[worst] - centre[worst]))
        return f"its {_NAMES[worst]} is {factor:.3g} times that of {len(others)} other boards"


def _known_by(windows: Iterable[Features]) -> Features:
    """A board's usual window, but the largest of its rewards: they may be rare, and are what a next one may be like."""
    stacked = np.array(list(windows))
    usual = np.median(stacked, axis=0)
    usual[_REWARDS] = stacked[:, _REWARDS].max()
    return usual


def _features(window: Trajectory) -> Features:
    rewards = float(np.abs(window.rewards.astype(np.float64)).max())
    frames = window.observations.reshape(-1, *window.observations.shape[2:])
    movement = float(frames.std(axis=0, dtype=np.float64).mean())
    certainty = float(np.abs(window.behavior_params.astype(np.float64)).mean()) * window.wire_scale
    return np.log(np.array([rewards + _NOTHING, movement + _NOTHING, max(certainty, _UNDECIDED)]))
