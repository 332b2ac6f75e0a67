"""Diagnostics of importance ratios equal their definitions, written out, and survive extreme ratios."""

import math
import re
import statistics

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from corrector import (
    clip_share,
    effective_sample_size,
    explained_variance,
    kl_divergence_categorical,
    kl_divergence_gaussian,
)


def test_effective_sample_size_equals_its_definition(generator):
    log_rhos = torch.randn(7, 3, generator=generator)
    rhos = [math.exp(x) for x in log_rhos.flatten().tolist()]
    expected = sum(rhos) ** 2 / (len(rhos) * sum(rho**2 for rho in rhos))
    assert effective_sample_size(log_rhos).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("log_rho", [-200.0, 0.0, 200.0])
def test_equal_ratios_are_worth_the_whole_batch_however_large(log_rho):
    assert effective_sample_size(torch.full((4, 2), log_rho)).item() == pytest.approx(1.0)


def test_one_ratio_above_all_others_is_worth_one_step():
    assert effective_sample_size(torch.tensor([[500.0, 0.0], [0.0, 0.0]])).item() == pytest.approx(0.25)


def test_clip_share_counts_the_ratios_above_the_threshold():
    log_rhos = torch.tensor([[0.5, 1.0, 1.9], [2.1, 3.0, 0.1]]).log()
    assert clip_share(log_rhos, 2.0).item() == pytest.approx(2 / 6)
    assert clip_share(torch.zeros(2, 3), 1.0).item() == 0


def test_categorical_divergence_equals_its_definition(generator):
    behavior_logits, target_logits = torch.randn(2, 5, 3, 4, generator=generator).unbind()
    behavior, target = Categorical(logits=behavior_logits), Categorical(logits=target_logits)
    actual = kl_divergence_categorical(behavior_logits, target_logits)
    torch.testing.assert_close(actual, kl_divergence(behavior, target).mean())


def test_categorical_divergence_ignores_actions_never_taken_and_not_those_ruled_out_since():
    masked, open_ = torch.tensor([[0.0, 0.0, -math.inf]]), torch.zeros(1, 3)
    assert kl_divergence_categorical(masked, masked).item() == 0
    assert kl_divergence_categorical(masked, open_).item() == pytest.approx(math.log(1.5))
    assert kl_divergence_categorical(open_, masked).item() == math.inf


def test_gaussian_divergence_equals_its_definition(generator):
    behavior_mean, behavior_log_std, target_mean, target_log_std = torch.randn(4, 5, 3, 2, generator=generator).unbind()
    behavior = Independent(Normal(behavior_mean, behavior_log_std.exp()), 1)
    target = Independent(Normal(target_mean, target_log_std.exp()), 1)
    actual = kl_divergence_gaussian(behavior_mean, behavior_log_std, target_mean, target_log_std)
    torch.testing.assert_close(actual, kl_divergence(behavior, target).mean())


def test_explained_variance_equals_its_definition(generator):
    values, targets = torch.randn(2, 7, 3, generator=generator).unbind()
    errors = (targets - values).flatten().tolist()
    expected = 1 - statistics.pvariance(errors) / statistics.pvariance(targets.flatten().tolist())
    assert explained_variance(values, targets).item() == pytest.approx(expected, rel=1e-5)


def test_explained_variance_of_constant_targets_is_not_a_number(generator):
    assert math.isnan(explained_variance(torch.randn(4, generator=generator), torch.ones(4)).item())


def test_shapes_that_differ_are_refused_by_name():
    with pytest.raises(ValueError, match=re.escape("targets: expected shape [4, 1], got [4]")):
        explained_variance(torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(ValueError, match=re.escape("target_logits: expected shape [4, 2], got [4, 3]")):
        kl_divergence_categorical(torch.zeros(4, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=re.escape("behavior_log_std: expected shape [4, 2], got [2]")):
        kl_divergence_gaussian(torch.zeros(4, 2), torch.zeros(2), torch.zeros(4, 2), torch.zeros(2))
