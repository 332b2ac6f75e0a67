"""Networks compute what their files will, remember within an episode and never beyond it, and share what ADR 6 says."""

import itertools
import math

import numpy as np
import pytest
import torch
from all_kinds import (
    ARM,
    IMAGE,
    KINDS,
    SMALL_IMAGE,
    THREE,
    VECTOR,
    Kind,
    make_network_of,
    make_state_size,
    random_observations,
)

from cloud_learner.networks import ActorCritic
from compressor.torch_modules import RecurrentMemory, SamePool
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.spaces import stacked_shape


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_exported_graph_computes_what_the_network_computes(kind: Kind):
    """Over several steps, where there is a memory, each side carrying its own state."""
    network, rng = make_network_of(kind), np.random.default_rng(1)
    graph = network.to_graph()
    seen = np.concatenate([random_observations(kind, rng, (5, 4)) for _ in range(kind.frame_stack)], axis=-1)
    size = make_state_size(kind)
    state = rng.uniform(-1, 1, (4, size)).astype(np.float32)
    with torch.no_grad():
        output = network(torch.from_numpy(seen), torch.from_numpy(state) if size else None)
    assert graph.state_size == size
    assert graph.observation_shape == stacked_shape(kind.observation, kind.frame_stack)
    carried = state.astype(np.float64)
    for step in range(5):
        outputs = graph.forward(seen[step], carried if size else None)
        carried = outputs.get("state_out", carried)
        exported = (
            outputs["logits"] if "logits" in outputs else np.concatenate([outputs["mean"], outputs["log_std"]], -1)
        )
        np.testing.assert_allclose(output.params[step].numpy(), exported, atol=1e-5, rtol=1e-5)
        if output.states is not None:
            np.testing.assert_allclose(output.states[step].numpy(), carried, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_exported_graph_does_not_change_with_the_network(kind: Kind):
    network, rng = make_network_of(kind), np.random.default_rng(1)
    graph = network.to_graph()
    seen = np.concatenate([random_observations(kind, rng, (2,))] * kind.frame_stack, axis=-1)
    before = graph.forward(seen)
    with torch.no_grad():
        for tensor in itertools.chain(network.parameters(), network.normaliser.buffers()):
            tensor.add_(1.0)
    for name, values in graph.forward(seen).items():
        np.testing.assert_array_equal(values, before[name])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_parameter_is_reached_by_the_gradient(kind: Kind):
    network, rng = make_network_of(kind), np.random.default_rng(1)
    seen = np.concatenate([random_observations(kind, rng, (5, 4)) for _ in range(kind.frame_stack)], axis=-1)
    output = network(torch.from_numpy(seen))
    ((output.params + 1).square().sum() + output.values.square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_value_and_policy_share_an_encoder_with_images_or_a_memory_and_not_else():
    assert make_network_of(Kind()).value_tower is not None
    assert make_network_of(Kind(memory="gru")).value_tower is None
    assert make_network_of(Kind(IMAGE)).value_tower is None


@pytest.mark.parametrize("sides", list(itertools.product((1, 2, 3, 6, 7), repeat=2)), ids=str)
def test_pooling_pads_as_tensorflow_lite_does(sides: tuple[int, int]):
    images = -torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(0)) - 1  # a pad of zeros would win
    pooled = SamePool()(images)
    assert pooled.shape[2:] == tuple(math.ceil(side / 2) for side in sides)
    for row, column in np.ndindex(*pooled.shape[2:]):
        spans = []
        for place, side in zip((row, column), sides, strict=True):
            missing = max(0, (math.ceil(side / 2) - 1) * 2 + 3 - side)
            begin = 2 * place - missing // 2
            spans.append(slice(max(0, begin), begin + 3))
        expected = images[:, :, spans[0], spans[1]].amax(dim=(2, 3))
        torch.testing.assert_close(pooled[:, :, row, column], expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_each_episode_in_a_window_is_remembered_as_if_it_came_alone(kind):
    generator = torch.Generator().manual_seed(0)
    memory = RecurrentMemory(kind, 4, 5)
    features = torch.randn(9, 3, 4, generator=generator)
    state = torch.randn(3, memory.state_size, generator=generator)
    is_first = torch.rand(9, 3, generator=generator) < 0.3
    assert is_first[0].any()
    assert is_first[1:].any(dim=0).all()
    together, states = memory(features, state, is_first)
    for copy in range(3):
        begins = sorted({0, *is_first[:, copy].nonzero().flatten().tolist()})
        for begin, end in itertools.pairwise([*begins, 9]):
            carried = torch.zeros(1, memory.state_size) if is_first[begin, copy] else state[copy : copy + 1]
            for step in range(begin, end):
                alone, after = memory(features[step : step + 1, copy : copy + 1], carried)
                carried = after[-1]
                torch.testing.assert_close(together[step, copy], alone[0, 0])
                torch.testing.assert_close(states[step, copy], carried[0])


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_what_an_episode_gives_does_not_depend_on_the_one_before_it(kind):
    memory = RecurrentMemory(kind, 4, 5)
    features = torch.randn(6, 1, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    is_first = torch.tensor([0, 0, 0, 1, 0, 0], dtype=torch.bool).unsqueeze(1)
    together, _ = memory(features, None, is_first)
    (gradient,) = torch.autograd.grad(together[5].sum(), features)
    reached = gradient.abs().sum(dim=(1, 2)) > 0
    assert reached.tolist() == [False, False, False, True, True, True]


@pytest.mark.parametrize(
    ("observation", "network"),
    [(VECTOR, "nature-cnn"), (VECTOR, "impala-resnet"), (IMAGE, "mlp"), (SMALL_IMAGE, "auto")],
)
def test_a_network_that_cannot_read_the_observations_is_refused_with_advice(observation, network):
    with pytest.raises(ProgramError, match="use ") as refusal:
        ActorCritic(observation, THREE, [8], network=network)
    assert refusal.value.exit_code == ExitCode.CONFIG


@pytest.mark.parametrize(("height", "width"), [(36, 36), (36, 50)])
def test_the_smallest_images_of_a_nature_cnn_are_read(height: int, width: int):
    network = ActorCritic(IMAGE.__class__(shape=(height, width, 3), dtype="uint8"), ARM, [8])
    assert network(torch.zeros(2, height, width, 3, dtype=torch.uint8)).params.shape == (2, 8)
