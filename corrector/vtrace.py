"""V-trace, the off-policy correction of IMPALA. Read this file first.

The learner trains on trajectories of a policy μ that is older and coarser than its own policy π. V-trace
weighs what happened by how likely π would have done it, and clips the weights to keep the variance down:

    ρₜ = min(rho_bar, π/μ)        cₜ = λ min(c_bar, π/μ)        rho_bar ≥ c_bar
    δₜ = ρₜ (rₜ + γₜ V(xₜ₊₁) - V(xₜ))
    Aₜ = δₜ + γₜ cₜ Aₜ₊₁        beyond the last step: 0
    vₜ = V(xₜ) + Aₜ

`rho_bar` decides *which* policy's value is estimated (π's own without clipping), `c_bar` only how fast it is
reached. In code they are `clip_rho_threshold` and `clip_c_threshold`.

A trajectory holds many episodes in a row. An episode that terminates has γₜ = 0, which ends every sum. One
that is truncated goes on in truth, only unseen: γₜ stays, V(xₜ₊₁) is that of the true final observation,
and the trace is cut, so that nothing of the next episode reaches this one.

From "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner Architectures" (Espeholt et
al., 2018), https://arxiv.org/abs/1802.01561.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from corrector.log_prob import categorical_log_prob
from corrector.shapes import require_rank, require_shape


class VTraceReturns(NamedTuple):
    """Constants for the losses, without gradient; each float32 `[T, B]`.

    Attributes:
        vs: Targets vₜ of the value function.
        pg_advantages: min(rho_bar_pg, π/μ) (rₜ + γₜ vₜ₊₁ - V(xₜ)), the factor of ∇ log π(aₜ|xₜ).
        clipped_pg_rhos: The weight min(rho_bar_pg, π/μ) that is already in `pg_advantages`; a loss of several
            passes, which brings a ratio of its own, divides it out.
    """

    vs: Tensor
    pg_advantages: Tensor
    clipped_pg_rhos: Tensor


@torch.no_grad()
def vtrace_from_logits(
    behavior_logits: Tensor,
    target_logits: Tensor,
    actions: Tensor,
    *,
    discounts: Tensor,
    rewards: Tensor,
    values: Tensor,
    bootstrap_value: Tensor,
    truncated: Tensor | None = None,
    final_values: Tensor | None = None,
    lambda_: float = 1.0,
    clip_rho_threshold: float | None = 1.0,
    clip_c_threshold: float | None = 1.0,
    clip_pg_rho_threshold: float | None = 1.0,
) -> VTraceReturns:
    """Compute V-trace for policies that sample from the softmax of their logits.

    A board that acts with a temperature or epsilon samples from something else: take its
    `behavior_log_prob` and call `vtrace_from_importance_weights`.

    Args:
        behavior_logits: Logits that the board sampled from, float32 `[T, B, A]`.
        target_logits: Logits of the learner's current policy, float32 `[T, B, A]`.
        actions: Actions taken, int64 `[T, B]`.
        discounts: As all that follow: see `vtrace_from_importance_weights`.
        rewards: Rewards.
        values: Values of the observations.
        bootstrap_value: Value of the observation after the last step.
        truncated: Where an episode was cut short.
        final_values: Values of true final observations.
        lambda_: Mixing parameter.
        clip_rho_threshold: `rho_bar`.
        clip_c_threshold: `c_bar`.
        clip_pg_rho_threshold: `rho_bar_pg`.

    Returns:
        Targets and advantages.

    Raises:
        ValueError: As `vtrace_from_importance_weights`, or the logits have different shapes.
    """
    require_shape(behavior_logits.shape, target_logits=target_logits)
    log_rhos = categorical_log_prob(target_logits, actions) - categorical_log_prob(behavior_logits, actions)
    return vtrace_from_importance_weights(
        log_rhos,
        discounts,
        rewards,
        values,
        bootstrap_value,
        truncated=truncated,
        final_values=final_values,
        lambda_=lambda_,
        clip_rho_threshold=clip_rho_threshold,
        clip_c_threshold=clip_c_threshold,
        clip_pg_rho_threshold=clip_pg_rho_threshold,
    )


@torch.no_grad()
def vtrace_from_importance_weights(
    log_rhos: Tensor,
    discounts: Tensor,
    rewards: Tensor,
    values: Tensor,
    bootstrap_value: Tensor,
    *,
    truncated: Tensor | None = None,
    final_values: Tensor | None = None,
    lambda_: float = 1.0,
    clip_rho_threshold: float | None = 1.0,
    clip_c_threshold: float | None = 1.0,
    clip_pg_rho_threshold: float | None = 1.0,
) -> VTraceReturns:
    """Compute V-trace targets and policy-gradient advantages from log importance ratios.

    Args:
        log_rhos: log π(aₜ|xₜ) - log μ(aₜ|xₜ), float32 `[T, B]`.
        discounts: γₜ, that is `gamma * (1 - terminated)`, float32 `[T, B]`.
        rewards: Rewards rₜ, float32 `[T, B]`.
        values: V(xₜ), float32 `[T, B]`.
        bootstrap_value: V of the observation after the last step, float32 `[B]`.
        truncated: Steps after which the episode was cut short, bool `[T, B]`; where a step is terminated
            too, termination wins. None if there are none.
        final_values: V of the true final observation at truncated steps, float32 `[T, B]`; ignored at all
            others, where it may hold anything, NaN included.
        lambda_: λ in [0, 1]. Below 1 the advantage bootstraps from λ vₜ₊₁ + (1 - λ) V(xₜ₊₁), as in rlax.
        clip_rho_threshold: `rho_bar`; None for no clipping, as for the other two.
        clip_c_threshold: `c_bar`, at most `rho_bar`.
        clip_pg_rho_threshold: `rho_bar_pg`, for the policy gradient alone.

    Returns:
        Targets and advantages, as constants.

    Raises:
        ValueError: A shape differs, `rho_bar` < `c_bar`, or one of `truncated` and `final_values` is missing.
    """
    require_rank(2, log_rhos=log_rhos)
    require_shape(log_rhos.shape, discounts=discounts, rewards=rewards, values=values)
    require_shape(log_rhos.shape[1:], bootstrap_value=bootstrap_value)
    _require_ordered(clip_rho_threshold, clip_c_threshold)

    next_values = torch.cat([values[1:], bootstrap_value.unsqueeze(0)])
    next_values, links = _cut_at_truncations(next_values, discounts, truncated, final_values)

    rhos = log_rhos.exp()
    deltas = _clip(rhos, clip_rho_threshold) * (rewards + discounts * next_values - values)
    traces = lambda_ * links * discounts
    errors = _accumulate(deltas, traces * _clip(rhos, clip_c_threshold))

    clipped_pg_rhos = _clip(rhos, clip_pg_rho_threshold)
    # λ vₜ₊₁ + (1 - λ) V(xₜ₊₁) is V(xₜ₊₁) + λ Aₜ₊₁; at a truncation only V of the final observation is left.
    returns = rewards + discounts * next_values + traces * errors[1:]
    return VTraceReturns(
        vs=values + errors[:-1],
        pg_advantages=clipped_pg_rhos * (returns - values),
        clipped_pg_rhos=clipped_pg_rhos,
    )


def _cut_at_truncations(
    next_values: Tensor, discounts: Tensor, truncated: Tensor | None, final_values: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return V(xₜ₊₁) within each episode, and 1 or 0: whether step t + 1 still belongs to it."""
    if truncated is None and final_values is None:
        return next_values, torch.ones_like(next_values)
    if truncated is None or final_values is None:
        raise ValueError("truncated and final_values: expected both or neither, got one")
    require_shape(next_values.shape, truncated=truncated, final_values=final_values)
    # Termination wins: its discount of 0 cuts already, and its final value may be NaN.
    cuts = truncated & (discounts != 0)
    return torch.where(cuts, final_values, next_values), (~cuts).to(next_values.dtype)


def _accumulate(deltas: Tensor, decays: Tensor) -> Tensor:
    """Return Aₜ = deltasₜ + decaysₜ Aₜ₊₁ for all steps and a last row of zeros, `[T + 1, B]`."""
    errors = [torch.zeros_like(deltas[0])]
    for delta, decay in zip(reversed(deltas.unbind()), reversed(decays.unbind()), strict=True):
        errors.append(torch.addcmul(delta, decay, errors[-1]))
    return torch.stack(errors[::-1])


def _clip(rhos: Tensor, threshold: float | None) -> Tensor:
    return rhos if threshold is None else rhos.clamp(max=threshold)


def _require_ordered(clip_rho_threshold: float | None, clip_c_threshold: float | None) -> None:
    rho_bar = math.inf if clip_rho_threshold is None else clip_rho_threshold
    c_bar = math.inf if clip_c_threshold is None else clip_c_threshold
    if rho_bar < c_bar:
        raise ValueError(f"clip_rho_threshold: expected at least clip_c_threshold {c_bar}, got {rho_bar}")
