"""CartPole on a board whose owner is not honest: its code, once imported in the worker, changes what is sent.

Which poison it is stands in the environment variable POISON; without it the board is honest.
"""

import os
import sys
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from numpy.typing import NDArray

from fleet_protocol.trajectory import Trajectory, pack_trajectory


def constant(window: Trajectory) -> NDArray[Any]:
    return np.ones_like(window.observations)


POISONS: dict[str, dict[str, Any]] = {
    "rewards x 1e6": {"rewards": lambda window: window.rewards * np.float32(1e6)},
    "rewards x 1000": {"rewards": lambda window: window.rewards * np.float32(1e3)},
    "rewards x 3": {"rewards": lambda window: window.rewards * np.float32(3)},
    "rewards x -1": {"rewards": lambda window: -window.rewards},
    "rewards + 0.1": {"rewards": lambda window: window.rewards + np.float32(0.1)},
    "constant observations": {"observations": constant},
    "observations + 0.05": {"observations": lambda window: window.observations + np.float32(0.05)},
    "forged logits": {
        "behavior_params": lambda window: np.full_like(window.behavior_params, 127),
        "wire_scale": lambda _: 1.0,
    },
    "episodes that never were": {
        "episode_returns": lambda _: [1e6] * 100,
        "episode_lengths": lambda _: [500] * 100,
    },
}


def poisoned(window: Trajectory) -> bytes:
    """The window as this board's owner likes it, packed."""
    changes = POISONS[os.environ["POISON"]]
    return pack_trajectory(replace(window, **{name: change(window) for name, change in changes.items()}))


if os.environ.get("POISON"):
    sys.modules["__main__"].pack_trajectory = poisoned  # pyright: ignore[reportAttributeAccessIssue]


class CartPole(CartPoleEnv):
    """CartPole, of a package of the board's own."""
