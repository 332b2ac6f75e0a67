"""V-trace finds the value it promises in a small MDP, but only if the log says what really was sampled from.

Three states, two actions, and a board that acts with logits rounded to a coarse grid. For values nothing is
sampled: every trajectory of three steps is listed with its probability, so that expectations are exact.
"""

import itertools
import math

import pytest
import torch

from corrector import vtrace_from_importance_weights

GAMMA = 0.8
UNROLL_LENGTH = 3
REWARDS = torch.tensor([[1.0, -1.0], [0.0, 2.0], [3.0, 0.5]])
TRANSITIONS = torch.tensor(
    [
        [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]],
        [[0.2, 0.6, 0.2], [0.5, 0.0, 0.5]],
        [[0.1, 0.8, 0.1], [0.3, 0.3, 0.4]],
    ]
)
TARGET = torch.softmax(torch.tensor([[1.0, -0.5], [-0.8, 0.8], [0.3, 0.1]]), dim=-1)
FLOAT_LOGITS = torch.tensor([[0.2, 0.7], [0.6, -0.2], [-0.4, 0.3]])
GRID = 0.5
FLOAT_BEHAVIOR = torch.softmax(FLOAT_LOGITS, dim=-1)
BEHAVIOR = torch.softmax((FLOAT_LOGITS / GRID).round() * GRID, dim=-1)


def exact_values(policy):
    """Return V = (I - gamma P)^-1 r of a policy, `[3]`."""
    transitions = torch.einsum("sa,sat->st", policy, TRANSITIONS)
    return torch.linalg.solve(torch.eye(3) - GAMMA * transitions, (policy * REWARDS).sum(dim=-1))


def all_trajectories():
    """Return states `[T + 1, N]`, actions `[T, N]` and probabilities given the first state `[N]`."""
    states = list(itertools.product(range(3), repeat=UNROLL_LENGTH + 1))
    actions = list(itertools.product(range(2), repeat=UNROLL_LENGTH))
    pairs = list(itertools.product(states, actions))
    visited = torch.tensor([pair[0] for pair in pairs]).T
    taken = torch.tensor([pair[1] for pair in pairs]).T
    steps = BEHAVIOR[visited[:-1], taken] * TRANSITIONS[visited[:-1], taken, visited[1:]]
    return visited, taken, steps.prod(dim=0)


def vtrace_fixed_point(logged_behavior, rho_bar):
    """Return what repeated V-trace makes of V, `[3]`, when the board acted by BEHAVIOR but logged another."""
    states, actions, probabilities = all_trajectories()
    log_rhos = (TARGET / logged_behavior).log()[states[:-1], actions]
    values = torch.zeros(3)
    for _ in range(60):
        returns = vtrace_from_importance_weights(
            log_rhos,
            discounts=torch.full_like(log_rhos, GAMMA),
            rewards=REWARDS[states[:-1], actions],
            values=values[states[:-1]],
            bootstrap_value=values[states[-1]],
            clip_rho_threshold=rho_bar,
        )
        values = torch.zeros(3).index_add(0, states[0], probabilities * returns.vs[0])
    return values


def test_with_the_logged_policy_and_no_clipping_it_is_the_value_of_the_target_policy():
    torch.testing.assert_close(vtrace_fixed_point(BEHAVIOR, rho_bar=None), exact_values(TARGET), rtol=0, atol=1e-4)


@pytest.mark.parametrize("rho_bar", [1.0, 1.2])
def test_with_clipping_it_is_the_value_of_a_policy_between_the_two(rho_bar):
    unnormalized = torch.minimum(rho_bar * BEHAVIOR, TARGET)
    between = unnormalized / unnormalized.sum(dim=-1, keepdim=True)

    actual = vtrace_fixed_point(BEHAVIOR, rho_bar)

    torch.testing.assert_close(actual, exact_values(between), rtol=0, atol=1e-4)
    assert bool(((actual - exact_values(TARGET)).abs() > 0.01).all())


def test_with_the_float_policy_in_place_of_the_rounded_one_it_is_biased():
    bias = vtrace_fixed_point(FLOAT_BEHAVIOR, rho_bar=None) - exact_values(TARGET)
    assert float(bias.abs().max()) > 0.1


def sampled_ratios(logged_behavior):
    generator = torch.Generator().manual_seed(0)
    actions = torch.multinomial(BEHAVIOR, 20_000, replacement=True, generator=generator)
    return (TARGET / logged_behavior).gather(-1, actions)


def standard_errors_from_one(rhos):
    """Return how many standard errors the mean ratio in each state is away from 1, `[3]`."""
    return (rhos.mean(dim=-1) - 1).abs() / (rhos.std(dim=-1) / math.sqrt(rhos.shape[-1]))


def test_importance_ratios_of_the_logged_policy_average_to_one():
    assert bool((standard_errors_from_one(sampled_ratios(BEHAVIOR)) < 3).all())


def test_importance_ratios_of_the_float_policy_do_not():
    assert bool((standard_errors_from_one(sampled_ratios(FLOAT_BEHAVIOR)) > 3).any())
