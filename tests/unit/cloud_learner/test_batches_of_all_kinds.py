"""Batches of stacks, branches and states against slow recomputation, frame by frame and branch by branch."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from all_kinds import ARM, BITS, IMAGE, KINDS, PARTS, Kind, make_network_of, make_window_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_learner.algorithms.impala import Impala
from cloud_learner.batching import make_batch
from cloud_learner.config import LearnerSettings
from fleet_protocol.spaces import MultiDiscreteSpec, branches
from fleet_protocol.trajectory import Trajectory, pack_trajectory, unpack_trajectory

CPU = torch.device("cpu")


def newest_frames(window: Trajectory, row: int, copy: int) -> list[Any]:
    """The frames of a row's stack, oldest first, walking back from the newest one until its episode begins."""
    frames: list[Any] = []
    while len(frames) < window.frame_stack:
        frames.insert(0, window.observations[row + window.frame_stack - 1, copy])
        began = row < window.unroll_length and row >= 0 and window.is_first[row, copy]
        if row > 0:
            began = began or window.terminated[row - 1, copy] or window.truncated[row - 1, copy]
        row -= 0 if began else 1
    return frames


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), frame_stack=st.integers(1, 5), unroll_length=st.integers(1, 8))
def test_stacks_hold_the_newest_frames_of_the_episode_and_its_first_for_what_is_missing(
    seed, frame_stack, unroll_length
):
    kind = Kind(frame_stack=frame_stack)
    window = make_window_of(kind, unroll_length=unroll_length, seed=seed)
    batch = make_batch([window, make_window_of(kind, unroll_length=unroll_length, seed=seed + 1, copies=1)], CPU, (3,))
    assert batch.observations.shape == (unroll_length + 1, 4, 3 * frame_stack)
    for row in range(unroll_length + 1):
        for copy in range(3):
            expected = np.concatenate(newest_frames(window, row, copy))
            np.testing.assert_array_equal(batch.observations[row, copy].numpy(), expected)
    for place, index in enumerate(window.final_steps):
        step, copy = divmod(int(index), 3)
        expected = [*newest_frames(window, step, copy)[1:], window.final_observations[place]]
        np.testing.assert_array_equal(batch.final_observations[place].numpy(), np.concatenate(expected))


def test_images_stay_bytes_until_the_network():
    kind = Kind(IMAGE, frame_stack=3)
    window = unpack_trajectory(pack_trajectory(make_window_of(kind)))
    batch = make_batch([window], CPU, (3,))
    assert batch.observations.dtype == batch.final_observations.dtype == torch.uint8
    assert batch.observations.shape == (7, 3, 40, 37, 3)
    for row in range(7):
        expected = np.concatenate(newest_frames(window, row, 1), axis=-1)
        np.testing.assert_array_equal(batch.observations[row, 1].numpy(), expected)


def test_an_episode_begins_where_it_was_reset_and_behind_every_end():
    windows = [make_window_of(Kind(memory="gru"), seed=seed) for seed in (0, 1)]
    batch = make_batch(windows, CPU, (3,))
    for column in range(6):
        window, copy = windows[column // 3], column % 3
        assert batch.is_first[0, column] == window.is_first[0, copy]
        for row in range(1, 7):
            assert batch.is_first[row, column] == (window.terminated | window.truncated)[row - 1, copy]
        np.testing.assert_array_equal(batch.initial_state[column].numpy(), window.initial_state[copy])


def test_an_episode_begins_behind_an_end_even_if_its_board_forgets_to_say_so():
    window = make_window_of(Kind(memory="gru"))
    forgetful = replace(window, is_first=np.zeros_like(window.is_first))
    batch = make_batch([forgetful], CPU, (3,))
    np.testing.assert_array_equal(batch.is_first[1:].numpy(), window.terminated | window.truncated)


@pytest.mark.parametrize("action", [PARTS, BITS, MultiDiscreteSpec(nvec=[5])], ids=lambda action: type(action).__name__)
def test_the_log_probability_of_several_branches_is_that_of_each_of_them_together(action):
    window, sizes = make_window_of(Kind(action=action)), branches(action)
    batch = make_batch([window], CPU, sizes)
    for step, copy in np.ndindex(6, 3):
        sent = iter(window.behavior_params[step, copy].tolist())
        expected, logits = 0.0, []
        for branch, size in enumerate(sizes):
            own = [0.0, *(next(sent) * window.wire_scale for _ in range(size - 1))]
            logits += own
            total = sum(math.exp(logit) for logit in own)
            expected += math.log(math.exp(own[window.actions[step, copy, branch]]) / total)
        assert batch.behavior_log_prob[step, copy].item() == pytest.approx(expected, abs=1e-5)
        assert batch.behavior_params[step, copy].tolist() == pytest.approx(logits, abs=1e-6)


@pytest.mark.parametrize("action", [PARTS, BITS, ARM], ids=lambda action: type(action).__name__)
def test_a_heads_numbers_are_those_of_torchs_distributions_together(action):
    network, generator = make_network_of(Kind(action=action)), torch.Generator().manual_seed(0)
    head, sizes = network.action_head, list(branches(action))
    one, other = (network(torch.randn(7, 3, generator=generator) * 5).params.detach() for _ in range(2))
    first, second = (distributions(params, sizes) for params in (one, other))
    actions = torch.stack([d.sample() for d in first], dim=-1)
    expected = sum(d.log_prob(actions[..., k]) for k, d in enumerate(first))
    torch.testing.assert_close(head.log_prob(one, actions), expected)
    torch.testing.assert_close(head.entropy(one), sum(d.entropy() for d in first))
    divergences = [torch.distributions.kl_divergence(*pair).mean() for pair in zip(first, second, strict=True)]
    torch.testing.assert_close(head.divergence(one, other), sum(divergences))
    differences = [(logits - logits[:, :1]).abs().max().item() for logits in one.split(sizes, -1)] if sizes else [0.0]
    assert head.largest_logit(one) == max(differences)


def distributions(params: torch.Tensor, sizes: list[int]) -> list[Any]:
    if sizes:
        return [torch.distributions.Categorical(logits=logits) for logits in params.split(sizes, -1)]
    mean, log_std = params.chunk(2, dim=-1)
    return [torch.distributions.Normal(mean[:, k], log_std[:, k].exp()) for k in range(mean.shape[1])]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_packed_equals_split(kind: Kind):
    """A batch of many episodes is corrected as each of them in a window of its own, with its own stacks and states."""
    algorithm = Impala(make_network_of(kind), LearnerSettings())
    window = make_window_of(kind, unroll_length=10)
    assert len(window.final_steps) > 1
    assert window.terminated.any()
    packed = corrected(algorithm, [window], kind)
    for copy in range(3):
        begin = 0
        for end in range(10):
            if not (window.terminated[end, copy] or window.truncated[end, copy] or end == 9):
                continue
            alone = corrected(algorithm, [episode(window, copy, begin, end + 1)], kind)
            for whole, own in zip(packed, alone, strict=True):
                torch.testing.assert_close(whole[begin : end + 1, copy], own[:, 0], atol=2e-5, rtol=1e-4)
            begin = end + 1


def episode(window: Trajectory, copy: int, begin: int, end: int) -> Trajectory:
    """One episode as a window that nothing is left to find out in: frames of its own, and no truncation.

    What a truncated episode goes on with is simply its last observation.
    """
    steps, one = slice(begin, end), slice(copy, copy + 1)
    cut = {name: getattr(window, name)[steps, one] for name in ("actions", "rewards", "terminated", "behavior_params")}
    if window.behavior_log_prob is not None:
        cut["behavior_log_prob"] = window.behavior_log_prob[steps, one]
    frames = [
        *newest_frames(window, begin, copy),
        *window.observations[begin + window.frame_stack : end + window.frame_stack, copy],
    ]
    index = (end - 1) * 3 + copy
    if index in window.final_steps:
        frames[-1] = window.final_observations[window.final_steps.tolist().index(index)]
    fresh = bool(window.is_first[begin, copy]) or begin > 0
    state = window.initial_state
    return Trajectory(
        head=window.head,
        observations=np.array(frames)[:, np.newaxis],
        truncated=np.zeros((end - begin, 1), np.bool_),
        is_first=np.zeros((end - begin, 1), np.bool_),
        policy_versions=window.policy_versions[steps],
        final_steps=np.empty(0, np.int32),
        final_observations=window.final_observations[:0],
        wire_scale=window.wire_scale,
        frame_stack=window.frame_stack,
        initial_state=None if state is None else state[one] * (not fresh),
        **cut,
    )


def corrected(algorithm: Impala, windows: list[Trajectory], kind: Kind) -> tuple[torch.Tensor, ...]:
    batch = make_batch(windows, CPU, branches(kind.action))
    with torch.no_grad():
        output = algorithm._network(batch.observations, batch.initial_state, batch.is_first)
        log_prob = algorithm._network.action_head.log_prob(output.params[:-1], batch.actions)
        return tuple(algorithm._correct(batch, log_prob, output))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_update_begins_with_what_the_policy_file_would_have_said(kind: Kind):
    """Its divergence is that of the exported graph, played step by step from the board's state, zeros at a reset."""
    network = make_network_of(kind)
    window = make_window_of(kind)
    batch = make_batch([window], CPU, branches(kind.action))
    network.normaliser.update(batch.observations)
    graph = network.to_graph()
    params = torch.zeros_like(batch.behavior_params)
    for copy in range(3):
        state = np.zeros((1, 0)) if window.initial_state is None else window.initial_state[copy : copy + 1]
        for step in range(6):
            state = state * (not window.is_first[step, copy])
            seen = np.concatenate(newest_frames(window, step, copy), axis=-1)[np.newaxis]
            outputs = graph.forward(seen, state if state.size else None)
            state = outputs.get("state_out", state)
            said = [outputs[name][0] for name in ("logits", "mean", "log_std") if name in outputs]
            params[step, copy] = torch.from_numpy(np.concatenate(said))
    network.normaliser.update = lambda _observations: None  # has seen the batch already
    report = Impala(network, LearnerSettings(passes=1)).update(batch)
    expected = network.action_head.divergence(batch.behavior_params, params).item()
    assert report.kl == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_second_pass_over_a_batch_sees_what_the_first_saw(kind: Kind):
    """With a step of zero both have the same gradient."""
    gradients: list[list[torch.Tensor]] = []
    for passes in (1, 2):
        network = make_network_of(kind)
        algorithm = Impala(network, LearnerSettings(passes=passes, entropy_cost=0.01))
        algorithm._optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
        algorithm.update(make_batch([make_window_of(kind)], CPU, branches(kind.action)))
        gradients.append([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_update_moves_every_weight_and_its_state_goes_on_exactly(kind: Kind):
    network = make_network_of(kind)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    algorithm = Impala(network, LearnerSettings(passes=2, entropy_cost=0.01))
    batches = [make_batch([make_window_of(kind, seed=seed)], CPU, branches(kind.action)) for seed in (0, 1)]
    algorithm.update(batches[0])
    for name, parameter in network.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    resumed = Impala(make_network_of(kind), LearnerSettings(passes=2, entropy_cost=0.01))
    resumed.load_state_dict(algorithm.state_dict())
    assert algorithm.update(batches[1]) == resumed.update(batches[1])
