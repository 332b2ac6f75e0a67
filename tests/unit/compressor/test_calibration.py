"""Ranges are what activations did on the observations, and observations that cannot tell are refused."""

from dataclasses import replace

import numpy as np
import pytest
from policy_factories import (
    STATIC,
    make_memory,
    make_nature,
    make_observations,
    make_policy,
    make_recurrent,
    make_resnet,
)

from compressor import CalibrationError, CompressionRecipe, Gru, Precision, UnsupportedPolicyError, compress
from compressor.calibration import calibrate
from compressor.recipe import int8, int8_full


def bounds(values):
    return [float(np.min(values)), float(np.max(values))]


def test_ranges_of_a_dense_tower_are_those_of_its_layers():
    graph = make_policy(value="own", normalised=True)
    observations = make_observations(graph, 50)
    ranges = calibrate(graph, observations)
    values = graph.normalise(observations)
    expected = {"observation": values}
    for name, tower in (("torso", graph.torso), ("value_torso", graph.value_torso)):
        features = values
        for index, layer in enumerate(tower):
            expected[f"{name}[{index}].sums"] = features @ layer.weight.T + layer.bias
            features = expected[f"{name}[{index}]"] = np.tanh(expected[f"{name}[{index}].sums"])
    expected |= {f"{name}.sums": output for name, output in graph.forward(observations).items()}
    assert expected.keys() == ranges.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(ranges[name], bounds(array), rtol=1e-4, atol=1e-6)


def test_ranges_inside_a_residual_are_those_of_its_convolutions():
    graph = make_resnet()
    observations = make_observations(graph, 4)
    features = graph.normalise(observations)
    for block in graph.torso[:2]:
        features = block.forward(features)
    residual = graph.torso[2]
    inside = np.maximum(residual.first.forward(np.maximum(features, 0)), 0)
    ranges = calibrate(graph, observations)
    np.testing.assert_allclose(ranges["torso[2].first"], bounds(inside), rtol=1e-5)
    np.testing.assert_allclose(ranges["torso[2].second"], bounds(residual.second.forward(inside)), rtol=1e-5)
    np.testing.assert_allclose(ranges["torso[2]"], bounds(residual.forward(features)), rtol=1e-5)


def test_every_observation_counts_however_many_there_are():
    graph = make_nature(size=84)
    observations = make_observations(graph, 40)
    whole = calibrate(graph, observations)
    parts = [calibrate(graph, observations[start : start + 1]) for start in range(40)]
    for name, (low, high) in whole.items():
        assert min(part[name].low for part in parts) == pytest.approx(low, rel=1e-5, abs=1e-6)
        assert max(part[name].high for part in parts) == pytest.approx(high, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("precision", STATIC)
@pytest.mark.parametrize("calibration", [None, np.zeros((0, 4), np.float32)], ids=["missing", "empty"])
def test_static_int8_without_observations_is_refused(precision, calibration):
    with pytest.raises(
        CalibrationError, match="needs observations to calibrate with, and none came: pass calibration="
    ):
        compress(make_policy(), CompressionRecipe(precision), metadata={}, calibration=calibration)


def test_observations_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"observations are float32 \[3, 5\]: they must be float32 \[N, 4\]"):
        compress(make_policy(), int8(), metadata={}, calibration=np.zeros((3, 5), np.float32))
    with pytest.raises(ValueError, match=r"they must be uint8 \[N, 15, 18, 3\]"):
        calibrate(make_resnet(), np.zeros((3, 15, 18, 3), np.float32))


@pytest.mark.parametrize("place", [0, 25, 49])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_observation_that_is_not_finite_is_refused_with_the_first_tensor_it_spoils(place, bad):
    observations = make_observations(make_policy(), 50)
    observations[place, 1] = bad
    with pytest.raises(CalibrationError, match="drive observation to"):
        calibrate(make_policy(), observations)


@pytest.mark.parametrize("precision", [p for p in Precision if not p.needs_calibration])
def test_other_precisions_do_not_look_at_the_observations(precision):
    with_observations = compress(make_policy(), CompressionRecipe(precision), metadata={}, calibration=np.zeros((0, 9)))
    assert compress(make_policy(), CompressionRecipe(precision), metadata={}).model == with_observations.model


def test_a_memory_in_int8_full_is_refused_with_what_to_use():
    graph = make_recurrent(Gru)
    with pytest.raises(UnsupportedPolicyError, match=r"int8-full has no memory.*use int8 or int8-dynamic"):
        compress(graph, int8_full(), metadata={}, calibration=make_observations(graph))


def test_a_memory_needs_no_states_to_calibrate():
    graph = make_recurrent(Gru)
    other = replace(graph, memory=make_memory(Gru, seed=5))
    observations = make_observations(graph)
    torso = [{n: r for n, r in calibrate(g, observations).items() if "torso" in n} for g in (graph, other)]
    assert torso[0] == torso[1]
    assert len(torso[0]) == 2
