"""What rounds in torch gives what the file gives, for every network and precision; and it can learn."""

import numpy as np
import pytest
import torch
from policy_factories import NETWORKS, make_observations, make_policy, make_states

from compressor import CompressionRecipe, compress
from compressor.calibration import Range, calibrate
from compressor.quantization_aware import learned_ranges, make_rounded
from compressor.rounding import StaticRounding
from compressor.run_file import run_model

RECIPES = ["int8-dynamic", "int8-dynamic+per-tensor", "int8", "int8-full"]
SOUND = [
    (network, text)
    for network in NETWORKS
    for text in RECIPES
    if "dynamic" in text or network in {"int8": set(NETWORKS) - {"resnet"}, "int8-full": {"mlp", "nature"}}[text]
]


def seen(graph, count, seed):
    states = make_states(graph, count, seed=seed) if graph.memory else None
    return make_observations(graph, count, seed=seed), states


def in_torch(policy, observations, states):
    with torch.no_grad():
        if states is None:
            return {name: values.numpy() for name, values in policy(torch.from_numpy(observations)).items()}
        outputs = policy(torch.from_numpy(observations).unsqueeze(0), torch.from_numpy(states))
        return {name: values[0].numpy() for name, values in outputs.items()}


@pytest.mark.parametrize("text", ["int8-full", "int8", "int8-dynamic"])
def test_a_deviation_that_depends_on_no_state_stays_what_it_is(text):
    """Its weights are nothing but zeros: only its bias says how coarse its integers have to be."""
    graph, recipe = make_policy(gaussian=True), CompressionRecipe.parse(text)
    assert not graph.heads["log_std"].weight.any()
    observations, _ = seen(graph, 200, 2)
    ranges = calibrate(graph, observations) if recipe.needs_calibration else {}
    rounded = in_torch(make_rounded(graph, recipe, ranges).eval(), observations, None)["log_std"]
    exact = np.broadcast_to(graph.heads["log_std"].bias, rounded.shape)
    assert rounded == pytest.approx(exact, abs=0.01)


def test_a_learned_range_grows_at_once_and_shrinks_slowly():
    rounding = StaticRounding("x", Range(-1.0, 1.0)).train()
    rounding(torch.tensor([-9.0, 8.0]))
    assert rounding.range == (-9.0, 8.0)
    for _ in range(50):
        rounding(torch.tensor([-1.0, 1.0]))
    assert -9 < rounding.range.low < -8
    for _ in range(5000):
        rounding(torch.tensor([-1.0, 1.0]))
    assert rounding.range == pytest.approx((-1, 1), abs=0.1)


@pytest.mark.parametrize(("network", "text"), SOUND)
def test_what_rounds_in_torch_is_what_the_file_computes(network, text):
    graph, recipe = NETWORKS[network](), CompressionRecipe.parse(text)
    calibration, _ = seen(graph, 64 if graph.image_shape else 500, 1)
    ranges = calibrate(graph, calibration) if recipe.needs_calibration else {}
    policy = make_rounded(graph, recipe, ranges).eval()
    observations, states = seen(graph, 200, 2)
    file = compress(policy.to_graph(), recipe, metadata={}, ranges=learned_ranges(policy, ranges)).model
    expected, actual = run_model(file, observations, states), in_torch(policy, observations, states)
    assert expected.keys() == actual.keys()
    for name, values in expected.items():
        reach = np.ptp(values)  # a static output has one grid for all that it holds
        assert (np.abs(actual[name] - values).max(axis=1) <= 0.005 * reach).mean() >= 0.99
