"""A policy graph computes what its definition says, and refuses, in a sentence, what is not a policy."""

import math
from dataclasses import replace

import numpy as np
import pytest
from policy_factories import make_layer, make_observations, make_policy

from compressor import InvalidPolicyError, Layer, PolicyGraph, UnsupportedPolicyError


def slow_dense(layer, inputs):
    sums = [
        sum(float(w) * x for w, x in zip(row, inputs, strict=True)) + float(b)
        for row, b in zip(layer.weight, layer.bias, strict=True)
    ]
    functions = {"tanh": math.tanh, "relu": lambda x: max(x, 0.0), None: lambda x: x}
    return [functions[layer.activation](x) for x in sums]


def slow_tower(layers, inputs):
    for layer in layers:
        inputs = slow_dense(layer, inputs)
    return inputs


def slow_normalise(graph, observation):
    if graph.observation_scale is None:
        return [float(x) for x in observation]
    triples = zip(observation, graph.observation_shift, graph.observation_scale, strict=True)
    return [min(10.0, max(-10.0, (float(x) - float(m)) * float(s))) for x, m, s in triples]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("normalised", [False, True])
def test_forward_equals_loops_over_the_definition(activation, normalised):
    graph = make_policy(width=8, gaussian=True, value="own", normalised=normalised, activation=activation)
    observations = make_observations(graph, 5, spread=6.0)
    outputs = graph.forward(observations)
    for index, observation in enumerate(observations):
        inputs = slow_normalise(graph, observation)
        features = slow_tower(graph.torso, inputs)
        np.testing.assert_allclose(outputs["mean"][index], slow_dense(graph.heads["mean"], features))
        np.testing.assert_allclose(outputs["log_std"][index], graph.heads["log_std"].bias)
        own = slow_tower(graph.value_torso, inputs)
        np.testing.assert_allclose(outputs["value"][index], slow_dense(graph.value_head, own))


def test_a_value_without_a_tower_reads_the_features_of_the_torso():
    graph = make_policy(width=8, value="shared")
    observations = make_observations(graph, 1)
    expected = slow_dense(graph.value_head, slow_tower(graph.torso, [float(x) for x in observations[0]]))
    np.testing.assert_allclose(graph.forward(observations)["value"][0], expected)


def test_a_spike_of_a_sensor_is_clipped_to_ten():
    graph = make_policy(features=2, normalised=True)
    spike = np.array([[1e6, -1e6]], np.float32)
    assert graph.normalise(spike).tolist() == [[10.0, -10.0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_refused_by_the_name_of_its_layer(bad):
    layer = make_layer(3, 64)
    layer.weight[1, 2] = bad
    with pytest.raises(InvalidPolicyError, match=r"logits\.weight holds NaN or infinity"):
        PolicyGraph(torso=make_policy().torso, heads={"logits": layer})


def test_layers_that_do_not_chain_are_refused_with_the_width_that_reaches_them():
    with pytest.raises(InvalidPolicyError, match=r"torso\[1\]\.weight is \[64, 32\], but 64 values reach it"):
        PolicyGraph(torso=(make_layer(64, 4), make_layer(64, 32)), heads={"logits": make_layer(3, 64)})


def test_a_head_of_the_wrong_width_is_refused():
    with pytest.raises(InvalidPolicyError, match=r"logits\.weight is \[3, 32\], but 64 values reach it"):
        replace(make_policy(), heads={"logits": make_layer(3, 32)})


def test_a_value_tower_that_expects_other_observations_is_refused():
    with pytest.raises(InvalidPolicyError, match=r"value_torso\[0\]\.weight is \[64, 5\]"):
        replace(make_policy(value="own"), value_torso=(make_layer(64, 5),))


def test_a_bias_of_the_wrong_size_is_refused():
    layer = Layer(np.ones((3, 64), np.float32), np.ones(2, np.float32))
    with pytest.raises(InvalidPolicyError, match=r"logits\.bias has 2 entries for 3 rows"):
        replace(make_policy(), heads={"logits": layer})


@pytest.mark.parametrize(
    "weight",
    [np.ones((3, 64)), np.ones(64, np.float32), np.ones((0, 64), np.float32)],
    ids=["float64", "rank 1", "empty"],
)
def test_an_array_that_is_no_float32_matrix_is_refused(weight):
    layer = Layer(weight, np.ones(3, np.float32))
    with pytest.raises(InvalidPolicyError, match=r"logits\.weight is .* float32, of rank 2 and not empty"):
        replace(make_policy(), heads={"logits": layer})


def test_an_unknown_activation_is_refused_with_those_there_are():
    with pytest.raises(UnsupportedPolicyError, match=r"logits has activation 'gelu': use 'tanh', 'relu'"):
        replace(make_policy(), heads={"logits": make_layer(3, 64, "gelu")})


@pytest.mark.parametrize("names", [[], ["mean"], ["logits", "mean"], ["q_values"]])
def test_unknown_heads_are_refused_with_those_there_are(names):
    with pytest.raises(UnsupportedPolicyError, match="give 'logits' for discrete actions"):
        replace(make_policy(), heads={name: make_layer(3, 64) for name in names})


@pytest.mark.parametrize("field", ["torso", "value_torso"])
def test_a_tower_without_layers_is_refused(field):
    with pytest.raises(UnsupportedPolicyError, match="a tower has no layers"):
        replace(make_policy(value="own"), **{field: ()})


def test_a_value_tower_without_a_head_is_refused():
    with pytest.raises(UnsupportedPolicyError, match="value_torso has no value_head"):
        replace(make_policy(value="own"), value_head=None)


def test_heads_of_different_sizes_are_refused():
    heads = {"mean": make_layer(3, 64), "log_std": make_layer(2, 64)}
    with pytest.raises(InvalidPolicyError, match="heads disagree on the number of actions"):
        replace(make_policy(), heads=heads)


def test_a_value_of_two_numbers_is_refused():
    with pytest.raises(InvalidPolicyError, match="value_head gives 2 values per state"):
        replace(make_policy(), value_head=make_layer(2, 64))


def test_normalisation_comes_whole_or_not_at_all():
    with pytest.raises(InvalidPolicyError, match="give both or neither"):
        replace(make_policy(normalised=True), observation_shift=None)


def test_normalisation_of_the_wrong_size_is_refused():
    with pytest.raises(InvalidPolicyError, match="observation_scale has 5 entries, but an observation has 4"):
        replace(make_policy(normalised=True), observation_scale=np.ones(5, np.float32))


def test_normalisation_that_is_not_finite_is_refused():
    with pytest.raises(InvalidPolicyError, match="observation_scale holds NaN"):
        replace(make_policy(normalised=True), observation_scale=np.full(4, np.inf, np.float32))
