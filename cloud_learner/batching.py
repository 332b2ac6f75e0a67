"""Windows side by side: a batch is the copies of several windows along one axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cloud_learner.frame_stacks import shift_in, stack_frames
from corrector import multi_categorical_log_prob
from fleet_protocol.trajectory import Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B = all copies of all windows; everything is time-major.

    Attributes:
        observations: float32 `[T + 1, B, D]` or uint8 `[T + 1, B, height, width, channels]`, frames stacked.
        is_first: bool `[T + 1, B]`: an episode begins with this row.
        initial_state: float32 `[B, H]`: the memory before the first row; None without a memory.
        actions: int64 `[T, B, K]`, one for each branch, or float32 `[T, B, A]`.
        rewards: float32 `[T, B]`.
        terminated: bool `[T, B]`.
        truncated: bool `[T, B]`.
        behavior_params: float32 `[T, B, A]` (logits) or `[T, B, 2 A]` (means, log standard deviations).
        behavior_log_prob: float32 `[T, B]`: log mu of the action taken.
        final_index: int64 `[F]`: t * B + b of the truncated steps.
        final_observations: `[F, ...]`, as `observations`: the true last ones there.
        policy_versions: int64 `[T, B]`: the version that acted.
    """

    observations: Tensor
    is_first: Tensor
    initial_state: Tensor | None
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    behavior_params: Tensor
    behavior_log_prob: Tensor
    final_index: Tensor
    final_observations: Tensor
    policy_versions: Tensor


def make_batch(windows: list[Trajectory], device: torch.device, branches: Sequence[int]) -> Batch:
    """Put windows of one T, one pair of spaces and one kind of policy side by side.

    The log-probability of a categorical head is computed here, from the rounded logits that acted.

    Args:
        windows: At least one.
        device: Where the tensors shall be.
        branches: Choices of each part of a discrete action; empty for a continuous one.
    """

    def joined(name: str, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(_joined(windows, name)).to(device, dtype)

    is_first = _is_first(windows)
    stacks = stack_frames(_joined(windows, "observations"), is_first, windows[0].frame_stack)
    final_index = _final_index(windows)
    finals = np.concatenate([window.final_observations for window in windows])
    if windows[0].frame_stack > 1:
        finals = shift_in(stacks.reshape(-1, *stacks.shape[2:])[final_index], finals)
    params = torch.cat([_behavior_params(window, branches) for window in windows], dim=1).to(device)
    if branches:
        actions = joined("actions", torch.int64).reshape(*params.shape[:2], len(branches))
        log_prob = multi_categorical_log_prob(params, actions, branches)
    else:
        actions, log_prob = joined("actions", torch.float32), joined("behavior_log_prob", torch.float32)
    return Batch(
        observations=torch.from_numpy(stacks).to(device),
        is_first=torch.from_numpy(is_first).to(device),
        initial_state=_initial_state(windows, device),
        actions=actions,
        rewards=joined("rewards", torch.float32),
        terminated=joined("terminated", torch.bool),
        truncated=joined("truncated", torch.bool),
        behavior_params=params,
        behavior_log_prob=log_prob,
        final_index=torch.from_numpy(final_index).to(device),
        final_observations=torch.from_numpy(finals).to(device),
        policy_versions=torch.cat(
            [torch.from_numpy(w.policy_versions).unsqueeze(1).expand(-1, w.copies) for w in windows], dim=1
        ),
    )


def _joined(windows: list[Trajectory], name: str) -> NDArray[Any]:
    return np.concatenate([getattr(window, name) for window in windows], axis=1)


def _is_first(windows: list[Trajectory]) -> NDArray[np.bool_]:
    """Also true after a step that ended an episode: the row behind the last step has no `is_first` of its own."""
    ended = _joined(windows, "terminated") | _joined(windows, "truncated")
    begins = np.concatenate([_joined(windows, "is_first"), ended[-1:]])
    begins[1:] |= ended
    return begins


def _initial_state(windows: list[Trajectory], device: torch.device) -> Tensor | None:
    states = [window.initial_state for window in windows if window.initial_state is not None]
    return torch.from_numpy(np.concatenate(states)).to(device) if states else None


def _behavior_params(window: Trajectory, branches: Sequence[int]) -> Tensor:
    params = torch.from_numpy(window.behavior_params.astype(np.float32))
    if not branches:
        return params
    # The logits of a branch are relative to its first one, which does not travel.
    sent = (params * window.wire_scale).split([choices - 1 for choices in branches], dim=-1)
    return torch.cat([functional.pad(logits, (1, 0)) for logits in sent], dim=-1)


def _final_index(windows: list[Trajectory]) -> NDArray[np.int64]:
    width = sum(window.copies for window in windows)
    pieces: list[NDArray[np.int64]] = []
    offset = 0
    for window in windows:
        steps, copies = np.divmod(window.final_steps.astype(np.int64), window.copies)
        pieces.append(steps * width + copies + offset)
        offset += window.copies
    return np.concatenate(pieces)
