"""Corrector: pure functions that make experience from older, quantised policies fit for learning.

Boards act with a policy μ that is rounded to int8 and a few versions old; the learner improves the
current policy π. Everything here works on what a board logged and what the learner computes anew from
it: tensors in, tensors out, no network, no configuration. Read `vtrace` first.
"""

from corrector.importance import (
    clip_share,
    effective_sample_size,
    explained_variance,
    kl_divergence_categorical,
    kl_divergence_gaussian,
)
from corrector.log_prob import categorical_log_prob, gaussian_log_prob, multi_categorical_log_prob
from corrector.policy_lag import PolicyLagSummary, policy_lag, summarize_policy_lag
from corrector.vtrace import VTraceReturns, vtrace_from_importance_weights, vtrace_from_logits

__all__ = [
    "PolicyLagSummary",
    "VTraceReturns",
    "categorical_log_prob",
    "clip_share",
    "effective_sample_size",
    "explained_variance",
    "gaussian_log_prob",
    "kl_divergence_categorical",
    "kl_divergence_gaussian",
    "multi_categorical_log_prob",
    "policy_lag",
    "summarize_policy_lag",
    "vtrace_from_importance_weights",
    "vtrace_from_logits",
]
