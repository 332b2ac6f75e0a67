"""Log-probabilities are those of the distributions they name, stay finite, and carry gradients."""

import re

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal

from corrector import categorical_log_prob, gaussian_log_prob, multi_categorical_log_prob


def test_categorical_equals_the_logarithm_of_the_softmax(generator):
    logits, actions = torch.randn(5, 3, 4, generator=generator), torch.randint(4, (5, 3), generator=generator)
    expected = Categorical(logits=logits).log_prob(actions)
    torch.testing.assert_close(categorical_log_prob(logits, actions), expected)


def test_categorical_stays_finite_where_the_probability_underflows():
    log_prob = categorical_log_prob(torch.tensor([[0.0, -500.0]]), torch.tensor([1]))
    torch.testing.assert_close(log_prob, torch.tensor([-500.0]))


def test_categorical_carries_the_gradient():
    logits = torch.zeros(1, 2, requires_grad=True)
    categorical_log_prob(logits, torch.tensor([1])).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.5, 0.5]]))


def test_gaussian_equals_the_density_summed_over_action_dimensions(generator):
    mean, log_std, actions = torch.randn(3, 5, 3, 2, generator=generator).unbind()
    expected = Independent(Normal(mean, log_std.exp()), 1).log_prob(actions)
    torch.testing.assert_close(gaussian_log_prob(mean, log_std, actions), expected)


def test_gaussian_carries_the_gradient():
    mean = torch.zeros(1, 1, requires_grad=True)
    gaussian_log_prob(mean, torch.zeros(1, 1), torch.tensor([[2.0]])).sum().backward()
    torch.testing.assert_close(mean.grad, torch.tensor([[2.0]]))


def test_actions_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=re.escape("actions: expected shape [5, 3], got [5]")):
        categorical_log_prob(torch.zeros(5, 3, 4), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match=re.escape("actions: expected shape [5, 3, 2], got [5, 3]")):
        gaussian_log_prob(torch.zeros(5, 3, 2), torch.zeros(5, 3, 2), torch.zeros(5, 3))


def test_independent_parts_of_an_action_multiply(generator):
    branches = [2, 5, 3]
    logits = torch.randn(4, 3, sum(branches), generator=generator)
    actions = torch.stack([torch.randint(size, (4, 3), generator=generator) for size in branches], dim=-1)
    parts = zip(logits.split(branches, -1), actions.unbind(-1), strict=True)
    expected = sum(Categorical(logits=own).log_prob(taken) for own, taken in parts)
    torch.testing.assert_close(multi_categorical_log_prob(logits, actions, branches), expected)


def test_one_part_is_a_categorical(generator):
    logits, actions = torch.randn(5, 3, 4, generator=generator), torch.randint(4, (5, 3, 1), generator=generator)
    expected = categorical_log_prob(logits, actions.squeeze(-1))
    torch.testing.assert_close(multi_categorical_log_prob(logits, actions, [4]), expected, rtol=0, atol=0)


def test_parts_that_do_not_fit_are_refused():
    actions = torch.zeros(5, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=re.escape("logits: expected shape [5, 5], got [5, 4]")):
        multi_categorical_log_prob(torch.zeros(5, 4), actions, [2, 3])
    with pytest.raises(ValueError, match=re.escape("actions: expected shape [5, 1], got [5, 2]")):
        multi_categorical_log_prob(torch.zeros(5, 4), actions, [4])
