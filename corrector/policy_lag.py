"""Policy lag: how many versions behind the learner the policy was that took each step.

A version is one publication of the learner, so a lag of 3 says: the board acted with the policy of three
publications ago. A board may swap policies inside a trajectory, hence one version per step.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class PolicyLagSummary(NamedTuple):
    """Policy lag over one batch, in versions.

    Attributes:
        mean: Mean over all steps.
        p95: 95th percentile, interpolated between neighbouring steps.
        max: Lag of the oldest policy in the batch.
    """

    mean: float
    p95: float
    max: int


def policy_lag(learner_version: int, policy_versions: Tensor) -> Tensor:
    """Return the lag of each step, `learner_version - policy_versions`.

    Args:
        learner_version: Version of the learner's current policy.
        policy_versions: Version that acted at each step, int64 `[T, B]` or `[T]`.

    Returns:
        Lags in versions, int64 of the same shape.

    Raises:
        ValueError: A step was taken by a version that the learner has not published yet.
    """
    lags = learner_version - policy_versions
    if bool((lags < 0).any()):
        newest = int(policy_versions.max())
        raise ValueError(f"policy_versions: expected at most version {learner_version}, got {newest}")
    return lags


def summarize_policy_lag(lags: Tensor) -> PolicyLagSummary:
    """Return mean, 95th percentile and maximum of the lags of a batch.

    Args:
        lags: Lags in versions, int64 of any shape with at least one element.

    Returns:
        The summary, as plain numbers ready to report.
    """
    steps = lags.double().flatten()
    return PolicyLagSummary(mean=float(steps.mean()), p95=float(torch.quantile(steps, 0.95)), max=int(lags.max()))
