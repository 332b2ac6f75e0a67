"""From windows to weights: batches, normalisation and updates against slow recomputation."""

import math
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from cloud_learner.algorithms.algorithm import Diverged
from cloud_learner.algorithms.impala import Impala
from cloud_learner.batching import make_batch
from cloud_learner.config import LearnerSettings
from cloud_learner.networks import ActorCritic
from cloud_learner.normalisation import RewardScaler, RunningMoments
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.spaces import BoxSpec, DiscreteSpec
from fleet_protocol.trajectory import Trajectory

CPU = torch.device("cpu")
T, D, A = 4, 3, 3


def make_window(copies: int, seed: int, **changes: Any) -> Trajectory:
    rng = np.random.default_rng(seed)
    truncated = rng.random((T, copies)) < 0.3
    terminated = (rng.random((T, copies)) < 0.2) & ~truncated
    final_steps = np.flatnonzero(truncated).astype(np.int32)
    parts: dict[str, Any] = {
        "head": "categorical",
        "observations": rng.standard_normal((T + 1, copies, D), np.float32),
        "actions": rng.integers(0, A, (T, copies)).astype(np.uint8),
        "rewards": rng.standard_normal((T, copies), np.float32),
        "terminated": terminated,
        "truncated": truncated,
        "is_first": np.zeros((T, copies), np.bool_),
        "behavior_params": rng.integers(-60, 60, (T, copies, A - 1)).astype(np.int8),
        "wire_scale": 0.02,
        "policy_versions": np.array([1, 1, 2, 2], np.int64),
        "final_steps": final_steps,
        "final_observations": rng.standard_normal((final_steps.size, D), np.float32),
    }
    return Trajectory(**(parts | changes))


def make_network(head: str = "categorical") -> ActorCritic:
    torch.manual_seed(0)
    action = DiscreteSpec(n=A) if head == "categorical" else BoxSpec(shape=(2,), dtype="float32")
    network = ActorCritic(BoxSpec(shape=(D,), dtype="float32"), action, [8, 8])
    with torch.no_grad():
        network.policy_head.weight.mul_(100)
    network.normaliser.update(torch.randn(50, D) * torch.tensor([1.0, 30.0, 0.1]) + 5)
    return network


def test_final_observations_stand_where_their_steps_are():
    windows = [make_window(2, 0), make_window(5, 1), make_window(1, 2)]
    batch = make_batch(windows, CPU, (A,))
    expected: list[tuple[int, list[float]]] = []
    offset = 0
    for window in windows:
        for k, index in enumerate(window.final_steps):
            step, copy = divmod(int(index), window.copies)
            expected.append((step * 8 + offset + copy, window.final_observations[k].tolist()))
            assert batch.truncated[step, offset + copy]
        offset += window.copies
    assert list(zip(batch.final_index.tolist(), batch.final_observations.tolist(), strict=True)) == expected


def test_the_log_probability_of_what_acted_follows_from_the_rounded_logits():
    window = make_window(2, 3)
    batch = make_batch([window], CPU, (A,))
    for step in range(T):
        for copy in range(2):
            logits = [0.0, *(int(level) * window.wire_scale for level in window.behavior_params[step, copy])]
            total = sum(math.exp(logit) for logit in logits)
            expected = math.log(math.exp(logits[window.actions[step, copy]]) / total)
            assert batch.behavior_log_prob[step, copy].item() == pytest.approx(expected, abs=1e-6)


def test_every_step_keeps_the_version_that_acted():
    batch = make_batch([make_window(2, 0), make_window(1, 1)], CPU, (A,))
    assert batch.policy_versions.tolist() == [[1] * 3, [1] * 3, [2] * 3, [2] * 3]


def test_running_moments_are_those_of_all_data_together():
    rng = np.random.default_rng(0)
    pieces = [rng.normal(3, 5, (n, 2)) for n in (1, 7, 100, 3)]
    moments = RunningMoments(2)
    for piece in pieces:
        moments.update(torch.from_numpy(piece))
    together = np.concatenate(pieces)
    np.testing.assert_allclose(moments.mean.numpy(), together.mean(0), rtol=1e-4)
    np.testing.assert_allclose(moments.variance.numpy(), together.var(0), rtol=1e-3)


def test_rewards_are_divided_by_the_deviation_of_discounted_sums():
    rewards = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    ended = torch.tensor([[False], [True], [False], [False]])
    scaler = RewardScaler(0.5)
    scaler.update(rewards, ended)
    sums = np.array([1.0, 2.5, 3.0, 5.5])
    assert scaler(torch.ones(1)).item() == pytest.approx(1 / sums.std(), rel=1e-3)


@pytest.mark.parametrize("head", ["categorical", "gaussian"])
def test_the_exported_graph_computes_what_the_network_computes(head: str):
    network = make_network(head)
    observations = torch.randn(40, D) * 20
    with torch.no_grad():
        params = network(observations).params.numpy()
    outputs = network.to_graph().forward(observations.numpy())
    exported = outputs["logits"] if head == "categorical" else np.concatenate([outputs["mean"], outputs["log_std"]], -1)
    np.testing.assert_allclose(exported, params, atol=1e-4)


def test_an_exported_graph_does_not_change_with_the_network():
    network = make_network()
    graph = network.to_graph()
    before = graph.torso[0].weight.copy()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    np.testing.assert_array_equal(graph.torso[0].weight, before)


def test_one_pass_descends_along_v_traces_policy_gradient():
    """The step of plain gradient descent on the policy equals the slow `-mean(advantage * grad log pi)`."""
    settings = LearnerSettings(passes=1, value_cost=0.0, max_grad_norm=1e9, lambda_=1.0, gamma=0.9)
    network = make_network()
    batch = make_batch([make_window(3, 5)], CPU, (A,))
    algorithm = Impala(network, settings)
    algorithm._optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    before = network.policy_head.weight.detach().clone()
    algorithm.update(batch)
    moved = before - network.policy_head.weight.detach()

    twin = make_network()  # the same weights; the update moved its normaliser first, and so do we
    twin.normaliser.update(batch.observations)
    with torch.no_grad():
        values = twin(batch.observations).values
        log_prob = twin.action_head.log_prob(twin(batch.observations[:-1]).params, batch.actions)
        scaled = algorithm._reward_scaler(batch.rewards)
    advantages = slow_advantages(batch, log_prob, values, scaled, twin, gamma=0.9)
    advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
    gradient = torch.zeros_like(before)
    for step in range(T):
        for copy in range(3):
            twin.zero_grad()
            twin.action_head.log_prob(twin(batch.observations[step, copy]).params, batch.actions[step, copy]).backward()
            gradient -= advantages[step, copy] * twin.policy_head.weight.grad / (T * 3)
    torch.testing.assert_close(moved, gradient, atol=1e-5, rtol=1e-3)


def slow_advantages(
    batch: Any, log_prob: torch.Tensor, values: torch.Tensor, rewards: torch.Tensor, network: ActorCritic, gamma: float
) -> torch.Tensor:
    finals = dict(zip(batch.final_index.tolist(), batch.final_observations, strict=True))
    rhos = (log_prob - batch.behavior_log_prob).exp().clamp(max=1.0)
    advantages = torch.zeros(T, 3)
    for copy in range(3):
        target = values[T, copy]  # v of the next step
        for step in reversed(range(T)):
            value, following = values[step, copy], values[step + 1, copy]
            if batch.terminated[step, copy]:
                following = target = torch.tensor(0.0)
            elif batch.truncated[step, copy]:
                with torch.no_grad():
                    following = target = network(finals[step * 3 + copy]).values
            rho = rhos[step, copy]
            advantages[step, copy] = rho * (rewards[step, copy] + gamma * target - value)
            delta = rho * (rewards[step, copy] + gamma * following - value)
            target = value + delta + gamma * rho * (target - following)
    return advantages


def test_it_learns_which_action_pays():
    network = make_network()
    algorithm = Impala(network, LearnerSettings(learning_rate=0.01))
    rng = np.random.default_rng(0)
    for seed in range(60):
        window = make_window(16, seed, behavior_params=np.zeros((T, 16, A - 1), np.int8))
        actions = rng.integers(0, A, (T, 16)).astype(np.uint8)
        rewards = (actions == 1).astype(np.float32)
        ended = np.ones((T, 16), np.bool_)
        nothing = {
            "truncated": ~ended,
            "final_steps": np.empty(0, np.int32),
            "final_observations": np.empty((0, D), np.float32),
        }
        parts = {field: getattr(window, field) for field in Trajectory.__dataclass_fields__}
        changed = Trajectory(**(parts | nothing | {"actions": actions, "rewards": rewards, "terminated": ended}))
        report = algorithm.update(make_batch([changed], CPU, (A,)))
    with torch.no_grad():
        chosen = network(torch.randn(200, D)).params.argmax(-1)
    assert (chosen == 1).float().mean() > 0.95
    assert 0 < report.effective_sample_size <= 1


def test_learning_that_ran_away_is_named_before_anything_of_it_is_published():
    network = make_network()
    algorithm = Impala(network, LearnerSettings())
    with torch.no_grad():
        network.policy_tower[0].weight[0, 0] = math.nan
    with pytest.raises(Diverged, match=r"torso\[0\].weight .* smaller learning_rate"):
        algorithm.policy_graph()
    with pytest.raises(Diverged, match="the policy loss is nan") as refused:
        algorithm.update(make_batch([make_window(3, 1)], torch.device("cpu"), [A]))
    assert refused.value.exit_code == ExitCode.DIVERGED


def test_an_algorithm_goes_on_from_its_state_exactly():
    windows = [make_window(3, seed) for seed in range(4)]
    algorithm = Impala(make_network(), LearnerSettings())
    for window in windows[:2]:
        algorithm.update(make_batch([window], CPU, (A,)))
    resumed = Impala(make_network(), LearnerSettings())
    resumed.load_state_dict(deepcopy(algorithm.state_dict()))
    for window in windows[2:]:
        assert algorithm.update(make_batch([window], CPU, (A,))) == resumed.update(make_batch([window], CPU, (A,)))
