"""A recurrent policy on a board: its state is carried, zeroed, told to the learner, and never mixed up."""

import numpy as np
import pytest
from copies import copies_of
from msgspec import to_builtins
from test_what_policies_see import Numbered

from compressor import CompressionRecipe, Gru, Layer, Lstm, Memory, PolicyGraph, Precision, compress
from edge_actor.evaluation import play_greedy_episodes
from edge_actor.policy import Policy
from edge_actor.policy_file import BadPolicyFile
from edge_actor.rollout import Rollout
from edge_actor.sampling import make_sampler
from fleet_protocol.spaces import BoxSpec, DiscreteSpec
from fleet_protocol.trajectory import Trajectory, pack_trajectory, unpack_trajectory

ACTION = DiscreteSpec(n=3)


def make_graph(kind: type[Gru] | type[Lstm], size: int, seed: int = 0) -> PolicyGraph:
    rng = np.random.default_rng(seed)
    gates = 3 if kind is Gru else 4

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) * np.float32(0.5)

    width = gates * size
    memory: Memory = kind(normal(width, 4), normal(width, size), normal(width), normal(width))
    return PolicyGraph(
        torso=(Layer(normal(4, 3), normal(4), "tanh"),),
        memory=memory,
        heads={"logits": Layer(normal(3, size), normal(3))},
    )


def file_of(graph: PolicyGraph, *, version: int = 1, state_size: int | None = None) -> bytes:
    metadata: dict[str, object] = {
        "run_id": "r",
        "policy_version": version,
        "head": "categorical",
        "observation": to_builtins(BoxSpec(shape=(3,), dtype="float32")),
        "action": to_builtins(ACTION),
        "wire_scale": 0.02,
        "state_size": graph.state_size if state_size is None else state_size,
    }
    return compress(graph, CompressionRecipe(Precision.FLOAT32), metadata=metadata).model


def make_rollout(copies: int, unroll_length: int) -> Rollout:
    rng = np.random.default_rng(0)
    sampler = make_sampler(ACTION, unroll_length=unroll_length, copies=copies, wire_scale=0.02, rng=rng)
    environments = [Numbered(number) for number in range(copies)]
    return Rollout(copies_of(environments), unroll_length=unroll_length, frame_stack=1, sampler=sampler, seed=None)


def replayed_logits(graph: PolicyGraph, window: Trajectory) -> np.ndarray:
    """The logits that must have acted, from what the window carries and the policy in float64: [T, N, A]."""
    assert window.initial_state is not None
    state = window.initial_state.astype(np.float64)
    logits: list[np.ndarray] = []
    for step in range(window.unroll_length):
        state = np.where(window.is_first[step][:, None], 0.0, state)
        outputs = graph.forward(window.observations[step], state)
        state = outputs["state_out"]
        logits.append(outputs["logits"])
    return np.array(logits)


@pytest.mark.parametrize("kind", [Gru, Lstm])
@pytest.mark.parametrize("unroll_length", [1, 7])
def test_the_learner_can_replay_what_acted_from_the_window_alone(kind: type[Gru] | type[Lstm], unroll_length: int):
    graph = make_graph(kind, size=5)
    policy, rollout = Policy(file_of(graph), copies=2), make_rollout(2, unroll_length)
    for _ in range(9):
        window = unpack_trajectory(pack_trajectory(rollout.fill_window(lambda: policy)[0]))
        logits = replayed_logits(graph, window)
        relative = logits[..., 1:] - logits[..., :1]
        grid = np.rint(relative / window.wire_scale).clip(-127, 127)
        assert np.abs(window.behavior_params - grid).max() <= 1  # a float32 file may round the other way at a half
        assert np.mean(window.behavior_params != grid) < 0.02


def test_a_swap_within_a_window_keeps_the_state():
    old, new = make_graph(Gru, size=5, seed=0), make_graph(Gru, size=5, seed=1)
    policies = [Policy(file_of(graph, version=version), copies=1) for version, graph in ((1, old), (2, new))]
    rollout = make_rollout(1, 6)
    asked = iter([0, 0, 0, 1, 1, 1, 1])
    window, _ = rollout.fill_window(lambda: policies[next(asked)])
    assert window.policy_versions.tolist() == [1, 1, 1, 2, 2, 2]
    state = np.zeros((1, 5))
    for step in range(6):
        state = np.where(window.is_first[step][:, None], 0.0, state)
        outputs = (old if step < 3 else new).forward(window.observations[step], state)
        state = outputs["state_out"]
        relative = (outputs["logits"][:, 1:] - outputs["logits"][:, :1]) / window.wire_scale
        assert np.abs(window.behavior_params[step] - relative.clip(-127, 127)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("sizes", [(5, 4), (5, 0), (0, 5)])
def test_another_state_size_waits_for_the_windows_end_where_all_copies_begin_anew(sizes: tuple[int, int]):
    def policy_of(size: int, version: int) -> Policy:
        graph = (
            make_graph(Gru, size)
            if size
            else PolicyGraph(
                torso=(Layer(np.eye(3, dtype=np.float32), np.zeros(3, np.float32), "tanh"),),
                heads={"logits": Layer(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))},
            )
        )
        return Policy(file_of(graph, version=version), copies=2)

    old, new = policy_of(sizes[0], 1), policy_of(sizes[1], 2)
    rollout = make_rollout(2, 4)
    asked = iter([old, old, new, new, new])
    window, _ = rollout.fill_window(lambda: next(asked))
    assert window.policy_versions.tolist() == [1, 1, 1, 1]
    assert window.truncated[-1].all() | window.terminated[-1].all()
    assert len(window.final_steps) == len(set(window.final_steps.tolist()))
    assert sorted(window.final_steps.tolist()) == window.final_steps.tolist()
    assert {6, 7} <= set(window.final_steps.tolist())
    window, _ = rollout.fill_window(lambda: new)
    assert window.policy_versions.tolist() == [2, 2, 2, 2]
    assert window.is_first[0].all()
    if sizes[1]:
        assert window.initial_state is not None
        assert not window.initial_state.any()
    else:
        assert window.initial_state is None


def test_an_evaluation_begins_every_episode_without_memories():
    graph = make_graph(Gru, size=5)
    results: list[tuple[list[float], list[int]]] = []
    for copies in (1, 3):
        policy = Policy(file_of(graph), copies=copies)
        sampler = make_sampler(ACTION, unroll_length=1, copies=copies, wire_scale=0.02, rng=np.random.default_rng(0))
        results.append(
            play_greedy_episodes(copies_of([Dependent() for _ in range(copies)]), policy, sampler, episodes=6, seed=1)
        )
    assert results[0] == results[1]


class Dependent(Numbered):
    """Its observations and rewards depend on seed and actions, so that a wrong state shows in the returns."""

    def __init__(self) -> None:
        super().__init__(0)
        self.shown = np.zeros(3, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, object] | None = None):
        self.age, self.shown = 0, np.random.default_rng(seed).standard_normal(3).astype(np.float32)
        return self.shown, {}

    def step(self, action: int):
        self.age += 1
        self.shown = np.roll(self.shown, action) * np.float32(0.9)
        return self.shown, float(action + self.shown[0]), self.age == 9, False, {}


def test_a_file_that_lies_about_its_memory_is_refused():
    graph = make_graph(Gru, size=5)
    for lie in (0, 4):
        with pytest.raises(BadPolicyFile):
            Policy(file_of(graph, state_size=lie), copies=1)
