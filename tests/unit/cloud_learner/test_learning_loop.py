"""Policy file, rollout, batch and update, joined: a chain is learned, and odd batches break nothing."""

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from msgspec import to_builtins
from test_learning import CPU, A, D, T, make_network, make_window

from cloud_learner.algorithms.impala import Impala
from cloud_learner.batching import make_batch
from cloud_learner.board_book import BoardBook
from cloud_learner.checkpoints import StateFolder
from cloud_learner.config import LearnerSettings
from cloud_learner.delivery_ledger import DeliveryLedger
from cloud_learner.intake import Intake
from cloud_learner.networks import ActorCritic
from cloud_learner.normalisation import ObservationNormaliser, RunningMoments
from cloud_learner.progress import Progress
from cloud_learner.run_report import make_report, write_report
from cloud_learner.trajectory_queue import QueuedWindow, TrajectoryQueue
from compressor import CompressionRecipe, Precision, compress
from edge_actor.environment_copy import EnvironmentCopy
from edge_actor.policy import Policy
from edge_actor.rollout import Rollout
from edge_actor.sampling import make_sampler
from fleet_protocol.messages import RunSpec
from fleet_protocol.spaces import branches
from fleet_protocol.trajectory import pack_trajectory, unpack_trajectory

LENGTH = 5


class Chain(gymnasium.Env[np.ndarray, Any]):
    """Walk right to the end for a reward; after 12 steps the episode is truncated."""

    observation_space = gymnasium.spaces.Box(0, 1, (LENGTH + 1,), np.float32)

    def __init__(self, *, continuous: bool) -> None:
        self.continuous = continuous
        one = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space: Any = one if continuous else gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self.place, self.steps = 0, 0
        return self._observe(), {}

    def step(self, action: Any):
        goes_right = float(action[0]) > 0.5 if self.continuous else int(action) == 1
        self.place = max(0, self.place + (1 if goes_right else -1))
        self.steps += 1
        arrived = self.place == LENGTH
        return self._observe(), float(arrived), arrived, self.steps >= 12 and not arrived, {}

    def _observe(self) -> np.ndarray:
        return np.eye(LENGTH + 1, dtype=np.float32)[self.place]


@pytest.mark.parametrize(
    ("head", "memory", "frame_stack"),
    [("categorical", "none", 1), ("gaussian", "none", 1), ("categorical", "gru", 2), ("categorical", "lstm", 1)],
)
def test_a_chain_is_learned_through_policy_files_and_packed_windows(head: str, memory: Any, frame_stack: int):
    copies = [EnvironmentCopy(lambda: Chain(continuous=head == "gaussian")) for _ in range(8)]
    observation, action = copies[0].observation_space, copies[0].action_space
    torch.manual_seed(0)
    network = ActorCritic(observation, action, [16, 16], memory=memory, memory_size=16, frame_stack=frame_stack)
    algorithm = Impala(network, LearnerSettings(learning_rate=0.01))
    sampler = make_sampler(action, unroll_length=24, copies=8, wire_scale=4 / 127, rng=np.random.default_rng(0))
    rollout = Rollout(copies, unroll_length=24, frame_stack=frame_stack, sampler=sampler, seed=0)
    returns: list[float] = []
    for version in range(1, 41):
        graph = algorithm.policy_graph()
        metadata = {
            "run_id": "r",
            "policy_version": version,
            "head": head,
            "observation": to_builtins(observation),
            "action": to_builtins(action),
            "frame_stack": frame_stack,
            "state_size": graph.state_size,
        }
        model = compress(graph, CompressionRecipe(Precision.INT8_DYNAMIC), metadata=metadata).model
        policy = Policy(model, copies=8)
        window = unpack_trajectory(pack_trajectory(rollout.fill_window(lambda: policy)[0]))  # noqa: B023 - called at once
        assert set(window.policy_versions.tolist()) == {version}
        report = algorithm.update(make_batch([window], CPU, branches(action)))
        returns += window.episode_returns
        assert report.effective_sample_size > 0.8  # the file acts almost as the network does
    assert np.mean(returns[:20]) < 0.8
    assert np.mean(returns[-50:]) > 0.95


def test_what_the_learner_normalises_by_is_what_the_file_carries():
    network = make_network()
    observations = torch.randn(60, D) * torch.tensor([1.0, 1e4, 1e-3]) + 5
    with torch.no_grad():
        normalised = network.normaliser(observations).numpy()
    expected = network.to_graph().normalise(observations.numpy())
    np.testing.assert_allclose(normalised, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(expected).max() == 10  # the case holds clipped ones


def test_normalised_observations_are_standard():
    observations = torch.randn(5000, D, generator=torch.Generator().manual_seed(0)) * 30 - 7
    normaliser = ObservationNormaliser(D)
    for piece in observations.split(999):
        normaliser.update(piece)
    normalised = normaliser(observations)
    torch.testing.assert_close(normalised.mean(0), torch.zeros(D), atol=1e-3, rtol=0)
    torch.testing.assert_close(normalised.std(0), torch.ones(D), atol=1e-3, rtol=0)


def test_moments_of_a_constant_far_from_zero_do_not_go_below_zero():
    moments = RunningMoments(1)
    for _ in range(100):
        moments.update(torch.full((10, 1), 1e6))
    assert moments.variance.item() >= 0
    assert moments.mean.item() == pytest.approx(1e6)


@pytest.mark.parametrize("spiked", ["observations", "rewards"])
def test_one_window_of_a_broken_sensor_does_not_blind_the_learner(spiked: str):
    """The largest numbers that are let in move the scales by a factor of ten at most."""
    network = make_network()
    algorithm = Impala(network, LearnerSettings())
    for seed in range(50):
        algorithm.update(make_batch([make_window(16, seed)], CPU, (A,)))
    window = make_window(16, 50)
    getattr(window, spiked)[0] = -9.9e8
    before = network.normaliser.scale.clone(), algorithm._reward_scaler(torch.ones(1))
    algorithm.update(make_batch([window], CPU, (A,)))
    after = network.normaliser.scale, algorithm._reward_scaler(torch.ones(1))
    for old, new in zip(before, after, strict=True):
        assert (new > old / 12).all()


def test_a_scale_that_really_grows_is_followed():
    moments = RunningMoments(1)
    generator = torch.Generator().manual_seed(0)
    for scale in [1.0] * 50 + [1e6] * 50:
        moments.update(torch.randn(200, 1, generator=generator, dtype=torch.float64) * scale)
    assert 0.3e6 < moments.variance.sqrt().item() < 1e6


def test_the_smallest_window_leaves_the_weights_finite():
    one = {
        name: getattr(make_window(1, 0), name)[:1]
        for name in ("actions", "rewards", "is_first", "behavior_params", "policy_versions")
    }
    never = np.zeros((1, 1), np.bool_)
    window = make_window(
        1,
        0,
        **one,
        observations=make_window(1, 0).observations[:2],
        terminated=never,
        truncated=never,
        final_steps=np.empty(0, np.int32),
        final_observations=np.empty((0, D), np.float32),
    )
    network = make_network()
    Impala(network, LearnerSettings()).update(make_batch([window], CPU, (A,)))
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())


def test_a_window_that_almost_never_could_have_happened_leaves_the_weights_finite():
    """Ratios of e^80 and e^-80 are clipped before anything multiplies with them."""
    window = make_window(3, 0, wire_scale=40 / 127, behavior_params=np.full((T, 3, 2), 127, np.int8))
    network = make_network()
    algorithm = Impala(network, LearnerSettings(learning_rate=1.0))
    for _ in range(5):
        algorithm.update(make_batch([window], CPU, (A,)))
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())


@pytest.mark.parametrize("head", ["categorical", "gaussian"])
def test_log_probability_and_entropy_are_those_of_torchs_distributions(head: str):
    network = make_network(head)
    params = network(torch.randn(7, D)).params
    if head == "categorical":
        distribution = torch.distributions.Categorical(logits=params)
        actions = torch.tensor([[0], [1], [2], [0], [1], [2], [0]])
        expected = distribution.log_prob(actions[:, 0]), distribution.entropy()
    else:
        mean, log_std = params.chunk(2, dim=-1)
        distribution = torch.distributions.Normal(mean, log_std.exp())
        actions = torch.randn(7, 2) * 3
        expected = distribution.log_prob(actions).sum(-1), distribution.entropy().sum(-1)
    torch.testing.assert_close(
        (network.action_head.log_prob(params, actions), network.action_head.entropy(params)), expected
    )


def test_an_algorithm_goes_on_from_a_checkpoint_on_disk(tmp_path: Path):
    windows = [make_window(3, seed) for seed in range(4)]
    algorithm = Impala(make_network(), LearnerSettings())
    for window in windows[:2]:
        algorithm.update(make_batch([window], CPU, (A,)))
    StateFolder(tmp_path).save({"algorithm": algorithm.state_dict()})
    saved = StateFolder(tmp_path).load()
    assert saved is not None
    resumed = Impala(make_network(), LearnerSettings())
    resumed.load_state_dict(saved["algorithm"])
    for window in windows[2:]:
        assert algorithm.update(make_batch([window], CPU, (A,))) == resumed.update(make_batch([window], CPU, (A,)))
    for before, after in zip(
        algorithm._network.state_dict().values(), resumed._network.state_dict().values(), strict=True
    ):
        assert torch.equal(before, after)


def test_a_save_that_fails_half_way_leaves_the_last_checkpoint(tmp_path: Path):
    state = StateFolder(tmp_path)
    state.save({"version": 1})
    with pytest.raises(Exception, match="pickle"):
        state.save({"version": 2, "weights": torch.zeros(1000), "broken": lambda: None})
    assert StateFolder(tmp_path).load() == {"version": 1}


def test_a_report_of_a_run_with_an_infinite_divergence_is_still_json(tmp_path: Path):
    window = make_window(3, 0, episode_returns=[1.0, 3.0], episode_lengths=[1, 2])
    batch = make_batch([window], CPU, (A,))
    update = Impala(make_network(), LearnerSettings()).update(batch)
    update = dataclasses.replace(update, kl=math.inf, entropy=math.nan)
    progress, ledger, book = Progress(target_return=None), DeliveryLedger(), BoardBook("r", None)
    progress.started_at = time.monotonic()
    progress.note_update([QueuedWindow(("b", "boot"), 0, window)], batch, update, version=3, seconds=0.1)
    settings = LearnerSettings()
    intake = Intake(
        RunSpec(run_id="r", generation=1, env_id="X", unroll_length=T),
        ledger=ledger,
        windows=TrajectoryQueue(),
        book=book,
        ack=lambda _boot, _seq: None,
        current_version=lambda: 3,
        max_policy_lag=3,
    )
    report = make_report(
        settings,
        run_id="r",
        wall_s=1.0,
        progress=progress,
        outlet=None,
        ledger=ledger,
        intake=intake,
        book=book,
        evaluation=None,
    )
    write_report(tmp_path / "new" / "report.json", report)
    read = json.loads((tmp_path / "new" / "report.json").read_text(encoding="utf-8"))
    assert read["return_mean_100"] == 2.0
    assert read["policy_lag"] == {"mean": 1.5, "p95": pytest.approx(2, rel=0.011), "max": 2}
    assert read["env_steps"] == 3 * T
    assert (read["correction"]["kl"], read["correction"]["entropy"]) == (None, None)
