"""Log-probabilities of the actions taken, for categorical and diagonal Gaussian heads.

Importance ratios are differences of these, never ratios of probabilities, which underflow. Gradients
flow: the learner's policy loss is built on them.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from corrector.shapes import require_shape

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def categorical_log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    """Return log softmax(logits)[a], the log-probability of each discrete action.

    Args:
        logits: Unnormalised log-probabilities, float32 `[..., A]`, usually `[T, B, A]`.
        actions: Indices of the actions taken, int64 `[...]`.

    Returns:
        Log-probabilities, float32 `[...]`.

    Raises:
        ValueError: `actions` is not shaped as `logits` without its last dimension.
    """
    require_shape(logits.shape[:-1], actions=actions)
    return torch.log_softmax(logits, dim=-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def multi_categorical_log_prob(logits: Tensor, actions: Tensor, branches: Sequence[int]) -> Tensor:
    """Return Σₖ log softmax(logitsₖ)[aₖ], the log-probability of an action of K independent parts.

    Args:
        logits: Unnormalised log-probabilities of all branches, one branch after the other, float32 `[..., A]`.
        actions: Indices of the actions taken in each branch, int64 `[..., K]`.
        branches: K numbers of choices, A together.

    Returns:
        Log-probabilities, float32 `[...]`.

    Raises:
        ValueError: `logits` or `actions` does not have the shape that `branches` asks for.
    """
    require_shape((*logits.shape[:-1], sum(branches)), logits=logits)
    require_shape((*logits.shape[:-1], len(branches)), actions=actions)
    parts = zip(logits.split(list(branches), dim=-1), actions.unbind(dim=-1), strict=True)
    total, *others = (categorical_log_prob(logits, actions) for logits, actions in parts)
    for log_prob in others:
        total = total + log_prob
    return total


def gaussian_log_prob(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    """Return log N(a; mean, exp(log_std)²), summed over the action dimensions.

    log N = -½ Σᵢ ((aᵢ - meanᵢ) / stdᵢ)² - Σᵢ log stdᵢ - ½ A log 2π

    Args:
        mean: Means, float32 `[..., A]`, usually `[T, B, A]`.
        log_std: Logarithms of the standard deviations, float32 `[..., A]`.
        actions: Actions as sampled, *before* any clipping to the action space, float32 `[..., A]`: the
            density of a clipped sample is not the Gaussian's.

    Returns:
        Log-densities, float32 `[...]`.

    Raises:
        ValueError: The three shapes are not equal.
    """
    require_shape(mean.shape, log_std=log_std, actions=actions)
    standardized = (actions - mean) * torch.exp(-log_std)
    return (-0.5 * standardized.square() - log_std - _HALF_LOG_TWO_PI).sum(dim=-1)
