"""Several episodes in one batch are corrected as if each came alone, whichever way they ended."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corrector import vtrace_from_importance_weights

OPTIONS = {"lambda_": 0.9, "clip_rho_threshold": 2.0, "clip_pg_rho_threshold": 1.5}


def assert_packed_equals_split(batch, episodes, **tolerances):
    packed = vtrace_from_importance_weights(**batch, **OPTIONS)
    for place, episode in episodes:
        alone = vtrace_from_importance_weights(**episode, **OPTIONS)
        torch.testing.assert_close([field[place] for field in packed], list(alone), **tolerances)


def test_packed_equals_split(make_batch, split_into_episodes):
    batch = make_batch(T=64, B=8)
    assert_packed_equals_split(batch, split_into_episodes(batch))


def test_packed_equals_split_in_float32(make_batch, split_into_episodes):
    batch = make_batch(T=64, B=8)
    batch |= {name: tensor.float() for name, tensor in batch.items() if name != "truncated"}
    assert_packed_equals_split(batch, split_into_episodes(batch), rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    T=st.integers(1, 12),
    p_terminated=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    p_truncated=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
)
def test_packed_equals_split_however_episodes_end(
    make_batch, split_into_episodes, *, seed, T, p_terminated, p_truncated
):
    batch = make_batch(seed, T=T, B=2, p_terminated=p_terminated, p_truncated=p_truncated)
    assert_packed_equals_split(batch, split_into_episodes(batch))


def test_truncation_keeps_the_value_of_what_would_have_followed_and_termination_does_not(make_batch):
    batch = make_batch(p_terminated=0.0, p_truncated=0.0)
    batch["log_rhos"] = torch.zeros_like(batch["log_rhos"])
    batch["truncated"][4], batch["final_values"][4] = True, 10.0
    truncated = vtrace_from_importance_weights(**batch)
    batch["discounts"][4] = 0.0
    terminated = vtrace_from_importance_weights(**batch)

    torch.testing.assert_close(truncated.vs[4], batch["rewards"][4] + 0.9 * 10.0)
    torch.testing.assert_close(terminated.vs[4], batch["rewards"][4])
    torch.testing.assert_close(truncated.vs[5:], terminated.vs[5:], rtol=0, atol=0)


def test_nothing_of_the_next_episode_reaches_the_one_before_it(make_batch):
    batch = make_batch(p_terminated=0.0, p_truncated=0.0)
    batch["truncated"][4], batch["final_values"][4] = True, 1.0
    before = vtrace_from_importance_weights(**batch, **OPTIONS)
    for name in ("rewards", "values", "log_rhos"):
        batch[name][5:] += 1.0
    after = vtrace_from_importance_weights(**batch, **OPTIONS)

    for unchanged, changed in zip(before, after, strict=True):
        torch.testing.assert_close(unchanged[:5], changed[:5], rtol=0, atol=0)


@pytest.mark.parametrize("discount", [0.0, 0.9])
def test_unused_final_values_may_be_anything(make_batch, discount):
    batch = make_batch(p_truncated=0.0)
    batch["truncated"][4], batch["discounts"][4], batch["final_values"][4] = True, discount, 1.0
    unused = ~batch["truncated"] | (batch["discounts"] == 0)
    zeroed = batch | {"final_values": batch["final_values"].masked_fill(unused, 0.0)}
    poisoned = batch | {"final_values": batch["final_values"].masked_fill(unused, torch.nan)}

    expected = vtrace_from_importance_weights(**zeroed)
    actual = vtrace_from_importance_weights(**poisoned)

    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    assert all(bool(field.isfinite().all()) for field in actual)
