"""A static int8 file computes the integers that the specification asks for, on the grids that calibration found.

`static_reference.py` is the specification in numpy; the runtime's delegate must agree with it to the integer.
"""

import math
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
import static_reference
from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType
from policy_factories import (
    export,
    load,
    make_layer,
    make_nature,
    make_observations,
    make_policy,
    make_resnet,
    parse,
)

from compressor import Flatten, Layer, Precision
from compressor.calibration import calibrate
from compressor.run_file import run_model

# Many outputs, because only they can be seen: what is between is inside the delegate.
NETWORKS = {
    "mlp": (lambda: make_policy(features=16, actions=64, value="own", normalised=True), 300),
    "relu mlp": (lambda: make_policy(features=16, actions=64, activation="relu"), 300),
    "nature": (lambda: make_nature(actions=256), 16),
    "resnet": (lambda: make_resnet(actions=256), 16),
}


def as_input(graph, observations, precision):
    is_int8_image = graph.image_shape is not None and precision == Precision.INT8_FULL
    return (observations ^ 0x80).view(np.int8) if is_int8_image else observations


def tensors_of(model):
    return {tensor.name.decode(): tensor for tensor in parse(model).subgraphs[0].tensors}


@pytest.mark.parametrize("network", NETWORKS)
def test_int8_full_equals_the_integer_reference(network):
    make, count = NETWORKS[network]
    graph = make()
    model, observations = export(graph, Precision.INT8_FULL), make_observations(graph, count)
    expected = static_reference.run(model, as_input(graph, observations, Precision.INT8_FULL))
    for name, actual in run_model(model, observations).items():
        (scale,) = tensors_of(model)[f"{name}.sums"].quantization.scale
        steps = np.rint((actual - expected[name]) / scale)
        assert np.unique(actual).size > 20
        assert np.mean(steps == 0) >= 0.999
        assert abs(steps).max() <= 1


@pytest.mark.parametrize("blocks", range(1, 12))
def test_every_block_of_a_resnet_equals_the_integer_reference(blocks):
    graph = make_resnet(image_shape=(9, 10, 3), channels=(8, 16))
    torso = graph.torso[:blocks] if blocks > 9 else (*graph.torso[:blocks], Flatten())
    size = math.prod(reduce(lambda shape, block: block.output_shape("", shape), torso, graph.image_shape))
    # A head that repeats what it reads shows the integers inside.
    eye = Layer(np.eye(size, dtype=np.float32), np.zeros(size, np.float32))
    graph = replace(graph, torso=torso, heads={"logits": eye})
    model, observations = export(graph, Precision.INT8_FULL), make_observations(graph, 64)
    expected = static_reference.run(model, as_input(graph, observations, Precision.INT8_FULL))
    (scale,) = tensors_of(model)["logits.sums"].quantization.scale
    steps = np.rint((run_model(model, observations)["logits"] - expected["logits"]) / scale)
    assert np.mean(steps == 0) >= 0.999
    assert abs(steps).max() <= 1


@pytest.mark.parametrize("network", ["mlp", "relu mlp"])
def test_the_static_middle_of_int8_equals_the_integer_reference(network):
    graph = NETWORKS[network][0]()
    # Heads that repeat the features show the integers of the last static layer.
    eye = Layer(np.eye(64, dtype=np.float32), np.zeros(64, np.float32))
    graph = replace(graph, heads={"logits": eye}, value_head=None, value_torso=None)
    model, observations = export(graph, Precision.INT8), make_observations(graph, 300)
    expected = static_reference.run(model, observations)
    (scale,) = tensors_of(model)["torso[1]"].quantization.scale
    steps = np.rint((run_model(model, observations)["logits"] - expected["logits"]) / scale)
    assert np.mean(steps == 0) >= 0.999
    assert abs(steps).max() <= 1


def test_grids_follow_the_calibrated_ranges():
    graph = make_resnet()
    tensors = tensors_of(export(graph, Precision.INT8_FULL))
    ranges = calibrate(graph, make_observations(graph, 64, seed=1000))
    for name in ("torso[0]", "torso[2].first", "torso[2].second", "torso[2]", "logits.sums"):
        low, high = min(0, ranges[name].low), max(0, ranges[name].high)
        (scale,), (zero,) = tensors[name].quantization.scale, tensors[name].quantization.zeroPoint
        assert scale == pytest.approx((high - low) / 255, rel=1e-5)
        assert zero == round(-128 - low / scale)


def test_normalised_features_are_quantised_where_they_lie():
    graph = make_policy(features=16, normalised=True)
    ranges = calibrate(graph, make_observations(graph, 500, seed=1000))
    grid = tensors_of(export(graph, Precision.INT8_FULL))["normalised.int8"].quantization
    # The file's features are a tenth of the policy's: its first weights are ten times larger.
    low, high = np.array(ranges["observation"]) / 10
    assert grid.scale[0] == pytest.approx((high - low) / 255, rel=1e-5)
    assert grid.zeroPoint[0] == round(-128 - low / grid.scale[0])


def test_behind_a_relu_the_whole_grid_is_positive():
    tensors = tensors_of(export(make_resnet(), Precision.INT8_FULL))
    for name in ("torso[2].first", "torso[2].rectified", "torso[3].first", "torso[7].rectified", "torso[10]"):
        assert tensors[name].quantization.zeroPoint.tolist() == [-128]


def test_a_tanh_gives_128ths():
    tensors = tensors_of(export(make_policy(), Precision.INT8_FULL))
    for name in ("torso[0]", "torso[1]"):
        assert tensors[name].quantization.scale.tolist() == [1 / 128]
        assert tensors[name].quantization.zeroPoint.tolist() == [0]


def test_weights_have_a_scale_per_output_and_biases_that_of_the_products():
    graph = make_nature(size=44)
    tensors = tensors_of(export(graph, Precision.INT8_FULL))
    for name, inputs, block in (
        ("torso[0]", "observation", graph.torso[0]),
        ("torso[1]", "torso[0]", graph.torso[1]),
        ("logits", "torso[4]", graph.heads["logits"]),
    ):
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        assert (weight.type, bias.type) == (TensorType.INT8, TensorType.INT32)
        scales = np.array([abs(row).max() for row in block.weight]) / 127
        np.testing.assert_allclose(weight.quantization.scale, scales, rtol=1e-6)
        products = tensors[inputs].quantization.scale[0] * weight.quantization.scale
        np.testing.assert_allclose(bias.quantization.scale, products, rtol=1e-6)


def test_an_image_goes_in_as_it_is():
    graph = make_nature(size=44)
    images = make_observations(graph, 4)
    interpreter = load(export(graph, Precision.INT8_FULL), batch=4)
    (observation,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(observation["index"], (images ^ 0x80).view(np.int8))
    interpreter.invoke()
    expected = run_model(export(graph, Precision.INT8_FULL), images)["logits"]
    np.testing.assert_array_equal(expected, interpreter.get_tensor(logits["index"]))
    scale, zero = observation["quantization"]
    reals = ((images ^ 0x80).view(np.int8).astype(float) - zero) * scale
    np.testing.assert_allclose(reals, graph.normalise(images), rtol=1e-6)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT8_FULL])
def test_a_dead_unit_stays_dead_and_its_neighbours_live(precision):
    graph = make_policy(activation="relu", features=16)
    graph.torso[1].weight[5], graph.torso[1].bias[5] = 0.0, 0.0
    graph = replace(graph, heads={"logits": Layer(np.eye(64, dtype=np.float32), np.zeros(64, np.float32))})
    observations = make_observations(graph, 100)
    actual = run_model(export(graph, precision), observations)["logits"]
    assert actual[:, 5].tolist() == [0.0] * 100
    assert abs(actual - graph.forward(observations)["logits"]).max() < 0.1 * abs(actual).max()


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT8_FULL])
def test_a_bias_far_beyond_its_weights_does_not_overflow(precision):
    graph = make_policy(activation="relu", features=16)
    graph.torso[1].weight[7], graph.torso[1].bias[7] = 1e-12, 3.0
    graph = replace(graph, heads={"logits": Layer(np.eye(64, dtype=np.float32), np.zeros(64, np.float32))})
    actual = run_model(export(graph, precision), make_observations(graph, 20))["logits"]
    np.testing.assert_allclose(actual[:, 7], 3.0, atol=0.05)


def test_a_layer_that_is_silent_on_all_observations_gives_a_file_that_runs():
    silent = Layer(make_layer(64, 64).weight, np.full(64, -1e3, np.float32), "relu")
    graph = replace(make_policy(activation="relu", features=16), heads={"logits": make_layer(4, 64)})
    graph = replace(graph, torso=(graph.torso[0], silent))
    observations = make_observations(graph, 5)
    actual = run_model(export(graph, Precision.INT8_FULL), observations)["logits"]
    np.testing.assert_allclose(actual, graph.forward(observations)["logits"], atol=0.01)


def test_static_operators_have_the_versions_of_int8():
    codes = {code.builtinCode: code.version for code in parse(export(make_resnet(), Precision.INT8_FULL)).operatorCodes}
    assert codes == {
        BuiltinOperator.CONV_2D: 3,
        BuiltinOperator.MAX_POOL_2D: 2,
        BuiltinOperator.ADD: 2,
        BuiltinOperator.RESHAPE: 1,
        BuiltinOperator.FULLY_CONNECTED: 4,
        BuiltinOperator.DEQUANTIZE: 2,
    }
