"""A file computes the policy: float32 to rounding, float16 to its eleven bits, int8 to the runtime's integers."""

from dataclasses import replace

import hybrid_reference
import numpy as np
import pytest
from policy_factories import (
    EXPORTS,
    NETWORKS,
    NOT_FULL,
    export,
    load,
    make_convolution,
    make_layer,
    make_observations,
    make_policy,
    make_recurrent,
    make_residual,
    make_resnet,
    make_states,
)

from compressor import Flatten, Gru, InvalidPolicyError, Layer, Lstm, MaxPool, Precision, Relu, WeightScales
from compressor.run_file import run_model

POLICIES = [
    {},
    {"activation": "relu"},
    {"value": "own"},
    {"gaussian": True, "value": "shared"},
    {"normalised": True},
    {"gaussian": True, "value": "own", "normalised": True, "activation": "relu"},
]


def run(graph, observations, precision, **options):
    return run_model(export(graph, precision, **options), observations)


def relative_errors(expected, actual):
    """Return the root mean square error of each output over its own spread."""
    assert expected.keys() == actual.keys()
    return {
        name: float(np.sqrt(np.mean((actual[name] - expected[name]) ** 2)) / max(expected[name].std(), 1e-6))
        for name in expected
    }


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("batch", [1, 2, 17])
def test_float32_equals_the_policy(policy, batch):
    graph = make_policy(**policy)
    observations = make_observations(graph, batch, spread=5.0)
    actual = run(graph, observations, Precision.FLOAT32)
    expected = graph.forward(observations)
    assert expected.keys() == actual.keys()
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("policy", POLICIES)
def test_float16_is_off_by_a_thousandth_of_the_spread(policy):
    graph = make_policy(**policy)
    observations = make_observations(graph, 200)
    errors = relative_errors(graph.forward(observations), run(graph, observations, Precision.FLOAT16))
    assert max(errors.values()) < 2e-3


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("scales", list(WeightScales))
def test_dynamic_int8_is_off_by_a_few_hundredths_of_the_spread(policy, scales):
    graph = make_policy(**policy)
    observations = make_observations(graph, 200)
    actual = run(graph, observations, Precision.INT8_DYNAMIC, weight_scales=scales)
    assert max(relative_errors(graph.forward(observations), actual).values()) < 0.03


@pytest.mark.parametrize("policy", [{}, {"width": 48, "features": 40, "activation": "relu"}, {"gaussian": True}])
def test_dynamic_int8_equals_the_integer_reference(policy):
    graph = make_policy(**policy)
    observations = make_observations(graph, 6)
    actual = run(graph, observations, Precision.INT8_DYNAMIC)
    expected = hybrid_reference.forward(graph, observations)
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], atol=3e-4)


@pytest.mark.parametrize("precision", list(Precision))
def test_a_batch_gives_what_its_observations_give_one_by_one(precision):
    graph = make_policy(value="own", normalised=True)
    observations = make_observations(graph, 9)
    together = run(graph, observations, precision)
    for index in range(len(observations)):
        alone = run(graph, observations[index : index + 1], precision)
        for name in together:
            np.testing.assert_allclose(alone[name][0], together[name][index], atol=2e-6)


# The largest root mean square error of an output, as a share of its spread, on random networks.
LARGEST_ERRORS = {
    Precision.FLOAT32: 1e-5,
    Precision.FLOAT16: 3e-3,
    Precision.INT8_DYNAMIC: 0.05,
    Precision.INT4_DYNAMIC: 0.25,
    Precision.INT8: 0.08,
    Precision.INT8_FULL: 0.1,
}


@pytest.mark.parametrize(("network", "precision"), EXPORTS)
def test_every_network_is_computed_in_every_precision(network, precision):
    graph = NETWORKS[network]()
    observations, states = make_observations(graph, 40), make_states(graph, 40) if graph.memory else None
    actual = run_model(export(graph, precision), observations, states)
    assert max(relative_errors(graph.forward(observations, states), actual).values()) < LARGEST_ERRORS[precision]


@pytest.mark.parametrize("precision", [Precision.INT8_DYNAMIC, Precision.INT8])
@pytest.mark.parametrize("network", ["nature", "gru", "lstm"])
def test_a_scale_per_matrix_computes_memory_and_images_too(network, precision):
    graph = NETWORKS[network]()
    observations, states = make_observations(graph, 40), make_states(graph, 40) if graph.memory else None
    model = export(graph, precision, weight_scales=WeightScales.PER_TENSOR)
    errors = relative_errors(graph.forward(observations, states), run_model(model, observations, states))
    assert max(errors.values()) < 0.1


@pytest.mark.parametrize("kind", [Gru, Lstm])
@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.INT8_DYNAMIC])
def test_a_state_that_goes_round_for_an_episode_stays_with_the_policys(kind, precision):
    graph = make_recurrent(kind)
    observations = make_observations(graph, 60)
    model, state = export(graph, precision), np.zeros((1, graph.state_size), np.float32)
    expected = {"state_out": np.zeros((1, graph.state_size))}
    errors = []
    for index in range(len(observations)):
        observation = observations[index : index + 1]
        expected = graph.forward(observation, expected["state_out"])
        outputs = run_model(model, observation, state)
        state = outputs["state_out"]
        errors.append(abs(outputs["logits"] - expected["logits"]).max() / graph.heads["logits"].weight.std())
    assert max(errors) < (1e-4 if precision == Precision.FLOAT32 else 0.5)
    assert np.mean(errors[30:]) < 2 * max(np.mean(errors[:30]), 1e-6)


def test_without_a_state_an_episode_begins():
    graph = make_recurrent(Gru)
    observations = make_observations(graph, 3)
    zeros = np.zeros((3, graph.state_size), np.float32)
    model = export(graph, Precision.FLOAT32)
    for name, values in run_model(model, observations).items():
        np.testing.assert_array_equal(values, run_model(model, observations, zeros)[name])
        np.testing.assert_array_equal(graph.forward(observations)[name], graph.forward(observations, zeros)[name])


def test_a_relu_stands_behind_any_block_in_any_precision():
    linear = make_layer(64, 64)
    stem = make_convolution(8, 3, 3, padding="same")
    graphs = [
        replace(make_policy(features=64), torso=(linear, Relu(), make_layer(64, 64, "tanh", seed=9), Relu())),
        replace(
            make_resnet(),
            torso=(stem, Relu(), make_residual(8), MaxPool(8, 8), Flatten(), Relu()),
            heads={"logits": make_layer(6, 2 * 3 * 8)},
        ),
    ]
    for graph in graphs:
        for precision in Precision:
            observations = make_observations(graph, 40)
            actual = run_model(export(graph, precision), observations)
            errors = relative_errors(graph.forward(observations), actual)
            assert max(errors.values()) < LARGEST_ERRORS[precision]


def test_one_interpreter_serves_batches_of_any_size():
    graph = make_policy()
    interpreter = load(export(graph))
    (observation,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()
    for batch in (1, 16, 3):
        interpreter.resize_tensor_input(observation["index"], [batch, 4])
        interpreter.allocate_tensors()
        interpreter.set_tensor(observation["index"], make_observations(graph, batch))
        interpreter.invoke()
        assert (batch, 3) == interpreter.get_tensor(logits["index"]).shape


@pytest.mark.parametrize("features", [4, 40], ids=["float first layer", "int8 first layer"])
def test_features_of_very_different_scales_cost_int8_nothing(features):
    graph = make_policy(features=features, normalised=True)
    assert graph.observation_scale.max() / graph.observation_scale.min() == pytest.approx(100)
    observations = make_observations(graph, 200)
    errors = relative_errors(graph.forward(observations), run(graph, observations, Precision.INT8_DYNAMIC))
    assert max(errors.values()) < 0.03


def test_a_large_offset_of_a_feature_costs_float32_nothing():
    graph = replace(make_policy(normalised=True), observation_shift=np.full(4, 3e5, np.float32))
    observations = make_observations(graph, 50)
    actual = run(graph, observations, Precision.FLOAT32)
    np.testing.assert_allclose(actual["logits"], graph.forward(observations)["logits"], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("precision", NOT_FULL)
def test_the_file_clips_a_spike_as_the_policy_does(precision):
    graph = make_policy(normalised=True)
    spikes = make_observations(graph, 50, spread=1e4)
    assert (abs(graph.normalise(spikes)) == 10).mean() > 0.9
    errors = relative_errors(graph.forward(spikes), run(graph, spikes, precision))
    assert max(errors.values()) < (0.1 if precision is Precision.INT4_DYNAMIC else 0.02)


@pytest.mark.parametrize("precision", NOT_FULL)
def test_a_head_that_ignores_the_state_gives_its_bias(precision):
    graph = make_policy(width=64, actions=20, gaussian=True)
    actual = run(graph, make_observations(graph, 5), precision)
    expected = np.tile(graph.heads["log_std"].bias, (5, 1))
    np.testing.assert_allclose(actual["log_std"], expected, rtol=5e-4 if precision == Precision.FLOAT16 else 0)


def test_a_dead_unit_among_live_ones_stays_dead_under_int8():
    alive = make_layer(64, 64, "relu")
    dead = Layer(alive.weight.copy(), alive.bias.copy(), "relu")
    dead.weight[5], dead.bias[5] = 0.0, 0.0
    first = make_policy(activation="relu").torso[0]
    graph = replace(
        make_policy(),
        torso=(first, dead),
        heads={"logits": Layer(np.eye(64, dtype=np.float32), np.zeros(64, np.float32))},
    )
    actual = run(graph, make_observations(graph, 8), Precision.INT8_DYNAMIC)["logits"]
    assert actual[:, 5].tolist() == [0.0] * 8
    assert abs(actual).max() > 0.5


def test_a_weight_beyond_float16_is_refused_by_the_name_of_its_layer():
    graph = make_policy()
    graph.torso[1].weight[0, 0] = 1e5
    with pytest.raises(InvalidPolicyError, match=r"torso\[1\]\.weight reaches 1e\+05, but float16 ends at 65504"):
        export(graph, Precision.FLOAT16)
