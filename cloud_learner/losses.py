"""Losses of policy and value: pure functions of tensors `[T, B]`."""

import torch
from torch import Tensor


def clipped_surrogate_loss(log_ratios: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Policy loss `-mean(min(r A, clip(r, 1 - clip, 1 + clip) A))` (PPO, https://arxiv.org/abs/1707.06347).

    At the first pass r = 1, and the gradient is that of `-mean(A log pi)`: V-trace's policy gradient, when `advantages`
    are V-trace's. Later passes stop where a ratio has moved far enough.

    Args:
        log_ratios: log(pi / pi at the batch's first pass), float32 `[T, B]`.
        advantages: Without gradient, float32 `[T, B]`.
        clip: How far a ratio may move.
    """
    ratios = log_ratios.exp()
    return -torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages).mean()


def value_loss(values: Tensor, vs: Tensor) -> Tensor:
    """`mean((v - V)^2) / 2` against the corrected targets, float32 `[T, B]` both."""
    return 0.5 * (vs - values).square().mean()
