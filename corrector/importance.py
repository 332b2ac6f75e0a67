"""Diagnostics of one batch: how far the acting policy is from the current one, and what that costs.

Each function returns a scalar tensor, so that a batch on an accelerator is not waited for; take
`.item()` when it is reported. No gradient flows through any of them.
"""

import math

import torch
from torch import Tensor

from corrector.shapes import require_shape


@torch.no_grad()
def effective_sample_size(log_rhos: Tensor) -> Tensor:
    """Return the effective sample size of importance weights, as a share of the batch.

    ESS = (Σ ρᵢ)² / (N Σ ρᵢ²), computed relative to the largest ratio, so that none overflows.
    It is 1 when all weights are equal and 1/N when one of them carries everything.
    See "A Note on Importance Sampling Using Standardized Weights" (Kong, 1992).

    Args:
        log_rhos: Log importance ratios log(π/μ), float32 of any shape with N > 0 elements.

    Returns:
        Share in (0, 1], float32 scalar.
    """
    weights = (log_rhos - log_rhos.max()).exp()
    return weights.sum().square() / (weights.numel() * weights.square().sum())


@torch.no_grad()
def clip_share(log_rhos: Tensor, threshold: float) -> Tensor:
    """Return the share of importance ratios that `min(threshold, ratio)` changes.

    Args:
        log_rhos: Log importance ratios log(π/μ), float32 of any shape.
        threshold: Clipping threshold of the plain ratio, positive.

    Returns:
        Share in [0, 1], float32 scalar.
    """
    return (log_rhos > math.log(threshold)).float().mean()


@torch.no_grad()
def kl_divergence_categorical(behavior_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Return the mean KL(μ‖π) = Σₐ μ(a) (log μ(a) - log π(a)) over all leading dimensions.

    Args:
        behavior_logits: Logits of μ, the policy that acted, float32 `[..., A]`.
        target_logits: Logits of π, the current policy, float32 `[..., A]`.

    Returns:
        Mean divergence in nats, float32 scalar; infinite where μ takes an action π never takes.

    Raises:
        ValueError: The shapes are not equal.
    """
    require_shape(behavior_logits.shape, target_logits=target_logits)
    behavior = torch.log_softmax(behavior_logits, dim=-1)
    target = torch.log_softmax(target_logits, dim=-1)
    probabilities = behavior.exp()
    # An action that μ never takes adds nothing, also where both policies mask it: 0 · (-∞ + ∞) is not 0.
    terms = torch.where(probabilities > 0, probabilities * (behavior - target), 0.0)
    return terms.sum(dim=-1).mean()


@torch.no_grad()
def kl_divergence_gaussian(
    behavior_mean: Tensor, behavior_log_std: Tensor, target_mean: Tensor, target_log_std: Tensor
) -> Tensor:
    """Return the mean KL(μ‖π) of two diagonal Gaussians over all leading dimensions.

    KL = Σᵢ log(std_πᵢ / std_μᵢ) + (std_μᵢ² + (mean_μᵢ - mean_πᵢ)²) / (2 std_πᵢ²) - ½

    Args:
        behavior_mean: Means of μ, the policy that acted, float32 `[..., A]`.
        behavior_log_std: Logarithms of the standard deviations of μ, float32 `[..., A]`.
        target_mean: Means of π, the current policy, float32 `[..., A]`.
        target_log_std: Logarithms of the standard deviations of π, float32 `[..., A]`.

    Returns:
        Mean divergence in nats, float32 scalar.

    Raises:
        ValueError: The four shapes are not equal.
    """
    require_shape(
        behavior_mean.shape,
        behavior_log_std=behavior_log_std,
        target_mean=target_mean,
        target_log_std=target_log_std,
    )
    log_ratio = behavior_log_std - target_log_std
    distance = (behavior_mean - target_mean) * torch.exp(-target_log_std)
    terms = -log_ratio + 0.5 * (torch.exp(2 * log_ratio) + distance.square() - 1)
    return terms.sum(dim=-1).mean()


@torch.no_grad()
def explained_variance(values: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - Var(targets - values) / Var(targets), the share of variance the critic explains.

    1 is a perfect critic, 0 one that is as good as a constant, and below 0 it is worse than that.

    Args:
        values: Predictions V(xₜ), float32 of any shape.
        targets: What they should have been, such as V-trace's `vs`, of the same shape.

    Returns:
        Share of at most 1, float32 scalar; NaN where the targets do not vary.

    Raises:
        ValueError: The shapes are not equal.
    """
    require_shape(values.shape, targets=targets)
    variance = targets.var(correction=0)
    unexplained = (targets - values).var(correction=0)
    return torch.where(variance > 0, 1 - unexplained / variance, torch.nan)
