"""Windows side by side: a batch is the copies of several windows along one axis."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corrector import categorical_log_prob
from fleet_protocol.trajectory import Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B = all copies of all windows; everything is time-major.

    Attributes:
        observations: float32 `[T + 1, B, D]`.
        actions: int64 `[T, B]` or float32 `[T, B, A]`.
        rewards: float32 `[T, B]`.
        terminated: bool `[T, B]`.
        truncated: bool `[T, B]`.
        behavior_params: float32 `[T, B, A]` (logits) or `[T, B, 2 A]` (means, log standard deviations).
        behavior_log_prob: float32 `[T, B]`: log mu of the action taken.
        final_index: int64 `[K]`: t * B + b of the truncated steps.
        final_observations: float32 `[K, D]`: the true last observations there.
        policy_versions: int64 `[T, B]`: the version that acted.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    behavior_params: Tensor
    behavior_log_prob: Tensor
    final_index: Tensor
    final_observations: Tensor
    policy_versions: Tensor


def make_batch(windows: list[Trajectory], device: torch.device) -> Batch:
    """Put windows of one T and one pair of spaces side by side.

    The log-probability of a categorical head is computed here, from the rounded logits that acted.
    """

    def joined(name: str, dtype: torch.dtype) -> Tensor:
        array = np.concatenate([getattr(window, name) for window in windows], axis=1)
        return torch.from_numpy(array).to(device, dtype)

    categorical = windows[0].head == "categorical"
    actions = joined("actions", torch.int64 if categorical else torch.float32)
    params = torch.cat([_behavior_params(window) for window in windows], dim=1).to(device)
    log_prob = categorical_log_prob(params, actions) if categorical else joined("behavior_log_prob", torch.float32)
    return Batch(
        observations=joined("observations", torch.float32),
        actions=actions,
        rewards=joined("rewards", torch.float32),
        terminated=joined("terminated", torch.bool),
        truncated=joined("truncated", torch.bool),
        behavior_params=params,
        behavior_log_prob=log_prob,
        final_index=_final_index(windows).to(device),
        final_observations=torch.from_numpy(np.concatenate([window.final_observations for window in windows])).to(
            device, torch.float32
        ),
        policy_versions=torch.cat(
            [torch.from_numpy(w.policy_versions).unsqueeze(1).expand(-1, w.copies) for w in windows], dim=1
        ),
    )


def _behavior_params(window: Trajectory) -> Tensor:
    params = torch.from_numpy(window.behavior_params.astype(np.float32))
    if window.head == "gaussian":
        return params
    first = torch.zeros((*params.shape[:2], 1))  # logits are relative to the first one
    return torch.cat([first, params * window.wire_scale], dim=-1)


def _final_index(windows: list[Trajectory]) -> Tensor:
    width = sum(window.copies for window in windows)
    pieces: list[Tensor] = []
    offset = 0
    for window in windows:
        steps, copies = np.divmod(window.final_steps.astype(np.int64), window.copies)
        pieces.append(torch.from_numpy(steps * width + copies + offset))
        offset += window.copies
    return torch.cat(pieces)
