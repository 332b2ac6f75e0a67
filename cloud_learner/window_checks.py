"""What decodes can still be nonsense: each window is checked against its run before anything is learned from it."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cloud_learner.board_book import Spaces
from cloud_learner.encoders import IMAGE_AXES
from fleet_protocol.codec import BadMessage
from fleet_protocol.messages import RunSpec
from fleet_protocol.spaces import BoxSpec, DiscreteSpec, branches, head_size
from fleet_protocol.trajectory import Trajectory

_LARGEST: Final = 1e9
"""No sensor, reward or state of a sound task is there: float32 keeps steps of 64 at best, and running moments that
once took in such a number would be blind to all others."""
LARGEST_RETURN: Final = 1e30
"""Returns are sums, and are only averaged."""
_LARGEST_WIRE_SCALE: Final = 1.0
"""Boards keep below 40 / 127 for logits, and name 1 for continuous heads."""


def check_window(trajectory: Trajectory, run: RunSpec, spaces: Spaces, *, state_size: int) -> None:
    """Check a window against its run.

    Args:
        trajectory: As it was unpacked.
        run: What boards were told.
        spaces: The run's spaces.
        state_size: Numbers in the memory's state; 0 for a run without a memory.

    Raises:
        BadMessage: It has other shapes or dtypes, contradicts itself, or holds numbers beyond reason.
    """
    observation, action = spaces
    if trajectory.unroll_length != run.unroll_length:
        raise BadMessage(f"expected T = {run.unroll_length}, got {trajectory.unroll_length}")
    if trajectory.frame_stack != run.frame_stack:
        raise BadMessage(f"expected a frame stack of {run.frame_stack}, got {trajectory.frame_stack}")
    dtype = np.dtype(np.uint8 if len(observation.shape) == IMAGE_AXES else np.float32)
    _check_column("observations", trajectory.observations, dtype, observation.shape)
    _check_scalars(trajectory)
    _check_state(trajectory.initial_state, state_size)
    if isinstance(action, BoxSpec):
        _check_continuous(trajectory, head_size(action))
    else:
        _check_discrete(trajectory, branches(action), is_single=isinstance(action, DiscreteSpec))
    _check_numbers(trajectory)
    _check_finals(trajectory)


def _check_column(name: str, column: NDArray[Any], dtype: np.dtype[Any], shape: Sequence[int]) -> None:
    if column.dtype != dtype or column.shape[2:] != tuple(shape):
        raise BadMessage(f"{name}: expected {dtype} {list(shape)} a step, got {column.dtype} {list(column.shape[2:])}")


def _check_scalars(trajectory: Trajectory) -> None:
    for name in ("terminated", "truncated", "is_first", "behavior_log_prob"):
        column: NDArray[Any] | None = getattr(trajectory, name)
        if column is not None:
            _check_column(name, column, column.dtype, ())


def _check_state(state: NDArray[np.float32] | None, state_size: int) -> None:
    size = 0 if state is None else state.shape[1]
    if size != state_size or (state is not None and not state_size):
        raise BadMessage(f"initial_state: expected {state_size} numbers a copy, got {size}")


def _check_discrete(trajectory: Trajectory, choices: Sequence[int], *, is_single: bool) -> None:
    params, actions = trajectory.behavior_params, trajectory.actions
    if trajectory.head != "categorical" or params.shape[2:] != (sum(choices) - len(choices),):
        raise BadMessage(f"expected a categorical head with {sum(choices) - len(choices)} parameters a step")
    if actions.dtype.kind not in "ui" or actions.shape[2:] != (() if is_single else (len(choices),)):
        raise BadMessage(f"actions: expected {len(choices)} integers a step, got {actions.dtype} {list(actions.shape)}")
    taken = actions.reshape(-1, len(choices))
    if taken.min() < 0 or (taken.max(axis=0) >= np.array(choices)).any():
        raise BadMessage(f"actions: expected integers from 0 to below {list(choices)}")


def _check_continuous(trajectory: Trajectory, size: int) -> None:
    if trajectory.head != "gaussian" or trajectory.behavior_params.shape[2:] != (2 * size,):
        raise BadMessage(f"expected a gaussian head with {2 * size} parameters a step")
    _check_column("actions", trajectory.actions, np.dtype(np.float32), (size,))
    if trajectory.behavior_log_prob is None:
        raise BadMessage("a gaussian head needs behavior_log_prob")


def _check_numbers(trajectory: Trajectory) -> None:
    columns = {
        "observations": trajectory.observations,
        "rewards": trajectory.rewards,
        "final_observations": trajectory.final_observations,
        "actions": trajectory.actions,
        "behavior_params": trajectory.behavior_params,
        "behavior_log_prob": trajectory.behavior_log_prob,
        "initial_state": trajectory.initial_state,
    }
    for name, column in columns.items():
        if column is not None and column.dtype.kind == "f":
            _check_below(_LARGEST, name, column)
    _check_below(LARGEST_RETURN, "episode_returns", np.asarray(trajectory.episode_returns, np.float64))
    if not 0 < trajectory.wire_scale <= _LARGEST_WIRE_SCALE:
        raise BadMessage(f"wire_scale: expected 0 to {_LARGEST_WIRE_SCALE:g}, got {trajectory.wire_scale}")


def _check_below(limit: float, name: str, column: NDArray[Any]) -> None:
    # Compared so, and not with >=, because of nan; in float64, because float16 ends below the limit.
    if not (np.abs(column.astype(np.float64)) < limit).all():
        raise BadMessage(f"{name}: expected finite numbers below {limit:g}")


def _check_finals(trajectory: Trajectory) -> None:
    truncated = np.flatnonzero(trajectory.truncated & ~trajectory.terminated)
    if not np.array_equal(trajectory.final_steps, truncated):
        raise BadMessage("final_steps do not name the truncated steps")
