"""Policy lag is counted per step, in versions, and no step can be ahead of the learner."""

import statistics

import pytest
import torch

from corrector import PolicyLagSummary, policy_lag, summarize_policy_lag


@pytest.mark.parametrize("shape", [(6,), (6, 4)])
def test_each_step_lags_by_the_versions_published_since(shape, generator):
    policy_versions = torch.randint(0, 100, shape, generator=generator)
    lags = policy_lag(100, policy_versions)
    assert lags.dtype == torch.int64
    assert lags.flatten().tolist() == [100 - version for version in policy_versions.flatten().tolist()]


def test_versions_beyond_the_precision_of_floats_are_told_apart():
    assert policy_lag(2**60 + 1, torch.tensor([2**60])).tolist() == [1]


def test_a_version_the_learner_has_not_published_is_refused():
    with pytest.raises(ValueError, match="policy_versions: expected at most version 7, got 8"):
        policy_lag(7, torch.tensor([[7, 8], [1, 2]]))


def test_the_summary_holds_mean_percentile_and_maximum(generator):
    lags = torch.randint(0, 50, (32, 8), generator=generator)
    steps = lags.flatten().tolist()
    expected = PolicyLagSummary(
        mean=pytest.approx(statistics.fmean(steps)),
        p95=pytest.approx(statistics.quantiles(steps, n=20, method="inclusive")[-1]),
        max=max(steps),
    )
    assert expected == summarize_policy_lag(lags)
