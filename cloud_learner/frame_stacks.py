"""Frame stacks: what a policy saw, put together from the single frames that a window carries (ADR 6)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def stack_frames(frames: NDArray[Any], is_first: NDArray[np.bool_], frame_stack: int) -> NDArray[Any]:
    """Stack the newest frames of each row along the last axis, oldest first.

    The stack of row t is made of the frames t to t + frame_stack - 1, but of nothing older than its episode, whose
    first frame stands in for what is missing.

    Args:
        frames: `[T + frame_stack, B, ..., C]`, as `Trajectory.observations`.
        is_first: `[T + 1, B]`: the row's newest frame came from a reset.
        frame_stack: K, how many.

    Returns:
        `[T + 1, B, ..., K * C]`, of the frames' dtype.
    """
    if frame_stack == 1:
        return frames
    rows = np.arange(len(is_first))[:, np.newaxis]
    # An episode that is older than the window has no limit here: the board has filled the rows before the first step.
    oldest = np.maximum.accumulate(np.where(is_first, rows + frame_stack - 1, 0), axis=0)
    copies = np.arange(frames.shape[1])
    return np.concatenate(
        [frames[np.maximum(rows + place, oldest), copies] for place in range(frame_stack)],
        axis=-1,
    )


def shift_in(stacks: NDArray[Any], frames: NDArray[Any]) -> NDArray[Any]:
    """Stacks of the next step within the episode: the oldest frame leaves, and a new one comes.

    Args:
        stacks: `[N, ..., K * C]`.
        frames: `[N, ..., C]`, one for each.
    """
    return np.concatenate([stacks[..., frames.shape[-1] :], frames], axis=-1)
