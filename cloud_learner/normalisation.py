"""Running scales of observations and rewards, kept by the learner and shipped inside the policy."""

from typing import Final

import torch
from torch import Tensor, nn

from compressor.policy_graph import OBSERVATION_CLIP

_EPSILON: Final = 1e-4
_SMALLEST_VARIANCE: Final = 1e-8
_LARGEST_PIXEL: Final = 255.0
_ENOUGH: Final = 100
_SPIKE: Final = 100.0
"""In standard deviations. A value beyond counts as one there: a broken sensor's window then moves the deviation by a
factor of ten at most, and a task whose scale has really grown is followed within a few batches."""


class RunningMoments(nn.Module):
    """Mean and variance of all that was seen (Chan, Golub and LeVeque's parallel update), spikes cut off.

    Args:
        size: D.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(_EPSILON, dtype=torch.float64))

    def update(self, values: Tensor) -> None:
        """Take in values, float `[..., D]`."""
        flat = self._without_spikes(values.reshape(-1, values.shape[-1]).to(torch.float64))
        variance, mean = torch.var_mean(flat, dim=0, correction=0)
        delta = mean - self.mean
        total = self.count + flat.shape[0]
        share = flat.shape[0] / total
        self.variance += (variance - self.variance) * share + delta**2 * share * (1 - share)
        self.mean += delta * share
        self.count.copy_(total)

    def _without_spikes(self, values: Tensor) -> Tensor:
        # A few values tell no scale to judge others by, nor do many that have not varied yet.
        known = (self.variance > _SMALLEST_VARIANCE) & (self.count > _ENOUGH)
        reach = torch.where(known, _SPIKE * self.variance.sqrt(), torch.inf)
        return values.clamp(self.mean - reach, self.mean + reach)


class ObservationNormaliser(nn.Module):
    """`clip((observation - shift) * scale, -10, 10)`, the very function that the policy file computes.

    Args:
        size: D.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.moments = RunningMoments(size)
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def update(self, observations: Tensor) -> None:
        """Take in observations, float32 `[..., D]`."""
        self.moments.update(observations)
        self.shift.copy_(self.moments.mean)
        self.scale.copy_((self.moments.variance + _SMALLEST_VARIANCE).rsqrt())

    def forward(self, observations: Tensor) -> Tensor:
        """Normalise, float32 `[..., D]`."""
        return ((observations - self.shift) * self.scale).clamp(-OBSERVATION_CLIP, OBSERVATION_CLIP)


class PixelScaler(nn.Module):
    """`image / 255`, as the policy file has it; nothing is learned."""

    def update(self, observations: Tensor) -> None:
        """Images need no moments."""

    def forward(self, images: Tensor) -> Tensor:
        """Scale uint8 `[N, height, width, channels]` to float32 `[N, C, H, W]`, channels last in memory."""
        return images.float().div_(_LARGEST_PIXEL).permute(0, 3, 1, 2)


class RewardScaler(nn.Module):
    """Divides rewards by the standard deviation of discounted sums, so that one learning rate suits all tasks.

    The sums begin anew with every window (windows may be lost, and copies come interleaved): smaller than the true
    returns by a factor that hardly changes, which is all that a scale needs.

    Args:
        gamma: Discount of the sums.
    """

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self._gamma = gamma
        self.moments = RunningMoments(1)

    def update(self, rewards: Tensor, ended: Tensor) -> None:
        """Take in rewards float32 `[T, B]` and episode ends bool `[T, B]`."""
        sums = torch.empty_like(rewards)
        running = torch.zeros_like(rewards[0])
        for step, (reward, end) in enumerate(zip(rewards, ended.logical_not(), strict=True)):
            running = running + reward
            sums[step] = running
            running = running * end * self._gamma
        self.moments.update(sums.unsqueeze(-1))

    def forward(self, rewards: Tensor) -> Tensor:
        """Scale, float32 `[T, B]`."""
        deviation = (self.moments.variance + _SMALLEST_VARIANCE).sqrt()
        return rewards / deviation.to(rewards.dtype)
