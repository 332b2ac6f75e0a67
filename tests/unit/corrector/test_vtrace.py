"""V-trace is what the paper defines: a slow double sum over each episode, and its known special cases."""

import math

import pytest
import torch

from corrector import categorical_log_prob, vtrace_from_importance_weights, vtrace_from_logits


def slow_vtrace(log_rhos, discounts, rewards, values, bootstrap_value, *, lambda_, rho_bar, c_bar, rho_bar_pg):
    """Return v_s = V(x_s) + sum_t (prod_{s<=i<t} gamma_i c_i) delta_t and the advantages of one episode."""
    rhos, gammas, rewards, values = (
        tensor.flatten().tolist() for tensor in (log_rhos.exp(), discounts, rewards, values)
    )
    steps = range(len(values))
    next_values = [*values[1:], float(bootstrap_value)]
    deltas = [min(rho_bar, rhos[t]) * (rewards[t] + gammas[t] * next_values[t] - values[t]) for t in steps]
    decays = [gammas[t] * lambda_ * min(c_bar, rhos[t]) for t in steps]
    vs = [values[s] + sum(math.prod(decays[s:t]) * deltas[t] for t in steps[s:]) for s in steps]
    next_vs = [*vs[1:], float(bootstrap_value)]
    mixed = [lambda_ * next_vs[t] + (1 - lambda_) * next_values[t] for t in steps]
    pg_advantages = [min(rho_bar_pg, rhos[t]) * (rewards[t] + gammas[t] * mixed[t] - values[t]) for t in steps]
    return torch.tensor(vs, dtype=torch.float64), torch.tensor(pg_advantages, dtype=torch.float64)


CLIPS = [(1.0, 1.0, 1.0), (3.7, 1.0, 2.2), (2.0, 1.5, 0.5), (math.inf, math.inf, math.inf)]


@pytest.mark.parametrize("clips", CLIPS)
@pytest.mark.parametrize("lambda_", [1.0, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_double_sum_of_the_paper(make_batch, split_into_episodes, clips, lambda_, seed):
    batch = make_batch(seed)
    rho_bar, c_bar, rho_bar_pg = clips
    actual = vtrace_from_importance_weights(
        **batch,
        lambda_=lambda_,
        clip_rho_threshold=rho_bar,
        clip_c_threshold=c_bar,
        clip_pg_rho_threshold=rho_bar_pg,
    )

    for place, episode in split_into_episodes(batch):
        vs, pg_advantages = slow_vtrace(**episode, lambda_=lambda_, rho_bar=rho_bar, c_bar=c_bar, rho_bar_pg=rho_bar_pg)
        torch.testing.assert_close(actual.vs[place].flatten(), vs)
        torch.testing.assert_close(actual.pg_advantages[place].flatten(), pg_advantages)
    torch.testing.assert_close(actual.clipped_pg_rhos, batch["log_rhos"].exp().clamp(max=rho_bar_pg))


def test_no_threshold_is_an_infinite_threshold(make_batch):
    batch = make_batch()
    names = ("clip_rho_threshold", "clip_c_threshold", "clip_pg_rho_threshold")
    unclipped = vtrace_from_importance_weights(**batch, **dict.fromkeys(names))
    infinite = vtrace_from_importance_weights(**batch, **dict.fromkeys(names, math.inf))
    torch.testing.assert_close(unclipped, infinite, rtol=0, atol=0)


def test_on_policy_it_is_the_n_step_bellman_target(make_batch):
    batch = make_batch(p_truncated=0.0)
    batch["log_rhos"] = torch.zeros_like(batch["log_rhos"])
    target, expected = batch["bootstrap_value"], []
    for reward, discount in zip(batch["rewards"].flip(0), batch["discounts"].flip(0), strict=True):
        target = reward + discount * target
        expected.insert(0, target)

    actual = vtrace_from_importance_weights(**batch)

    torch.testing.assert_close(actual.vs, torch.stack(expected))
    torch.testing.assert_close(actual.pg_advantages, actual.vs - batch["values"])


def test_one_step_without_clipping_is_plain_importance_sampling(make_batch):
    batch = make_batch(T=1, p_terminated=0.0, p_truncated=0.0)
    temporal_difference = batch["rewards"] + 0.9 * batch["bootstrap_value"] - batch["values"]
    expected = batch["log_rhos"].exp() * temporal_difference

    actual = vtrace_from_importance_weights(**batch, clip_rho_threshold=None, clip_pg_rho_threshold=None)

    torch.testing.assert_close(actual.vs - batch["values"], expected)
    torch.testing.assert_close(actual.pg_advantages, expected)


def test_logits_and_importance_weights_give_the_same(make_batch, generator):
    batch = make_batch()
    behavior_logits, target_logits = torch.randn(2, 9, 3, 4, dtype=torch.float64, generator=generator).unbind()
    actions = torch.randint(4, (9, 3), generator=generator)
    batch["log_rhos"] = categorical_log_prob(target_logits, actions)
    batch["log_rhos"] -= categorical_log_prob(behavior_logits, actions)
    options = {
        "lambda_": 0.8,
        "clip_rho_threshold": 1.7,
        "clip_c_threshold": 1.2,
        "clip_pg_rho_threshold": 1.4,
    }

    expected = vtrace_from_importance_weights(**batch, **options)

    del batch["log_rhos"]
    actual = vtrace_from_logits(behavior_logits, target_logits, actions, **batch, **options)
    torch.testing.assert_close(actual, expected)


def test_no_gradient_flows(make_batch):
    batch = make_batch(p_truncated=0.0)
    batch["values"].requires_grad_()
    batch["log_rhos"].requires_grad_()
    assert not any(tensor.requires_grad for tensor in vtrace_from_importance_weights(**batch))


def test_inputs_are_left_as_they_were(make_batch):
    batch, untouched = make_batch(), make_batch()
    vtrace_from_importance_weights(**batch)
    torch.testing.assert_close(batch, untouched, rtol=0, atol=0, equal_nan=True)
