"""A written file is what readers expect: found by name, batched freely, aligned, described, the same each time.

The reader is the runtime's generated schema, which shares no code with the writer.
"""

import numpy as np
import pytest
from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType
from policy_factories import EXPORTS, NETWORKS, export, load, make_policy, parse, read_metadata, weight_types

from compressor import CompressionRecipe, Precision, WeightScales, compress

METADATA = {"policy_version": 7, "head": "categorical", "wire_scale": 0.0625, "name": "Löwe"}


def write(graph, precision=Precision.INT8_DYNAMIC, **options):
    return export(graph, precision, metadata=METADATA, **options)


@pytest.fixture(params=list(Precision))
def precision(request):
    return request.param


def test_the_file_names_its_own_format(precision):
    model = write(make_policy(), precision)
    assert model[4:8] == b"TFL3"
    assert parse(model).version == 3


@pytest.mark.parametrize(
    ("policy", "outputs"),
    [
        ({}, ["logits"]),
        ({"value": "own"}, ["logits", "value"]),
        ({"gaussian": True}, ["mean", "log_std"]),
        ({"gaussian": True, "value": "shared"}, ["mean", "log_std", "value"]),
    ],
)
def test_inputs_and_outputs_are_found_by_name(policy, outputs, precision):
    interpreter = load(write(make_policy(**policy), precision))
    assert [tensor["name"] for tensor in interpreter.get_input_details()] == ["observation"]
    assert outputs == [tensor["name"] for tensor in interpreter.get_output_details()]
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["observation"], "outputs": sorted(outputs)}
    }


def test_inputs_and_outputs_are_float32_with_a_free_batch(precision):
    graph = make_policy(gaussian=True, value="own", normalised=True)
    interpreter = load(write(graph, precision))
    tensors = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    assert {np.float32} == {tensor["dtype"] for tensor in tensors}
    signatures = [tensor["shape_signature"].tolist() for tensor in tensors]
    assert signatures == [[-1, 4], [-1, 3], [-1, 3], [-1, 1]]


def test_metadata_is_read_back_as_it_was_given(precision):
    assert read_metadata(write(make_policy(), precision)) == METADATA


def test_metadata_that_json_cannot_hold_is_refused():
    with pytest.raises(TypeError):
        compress(make_policy(), CompressionRecipe(Precision.FLOAT32), metadata={"array": np.ones(2)})
    with pytest.raises(ValueError, match="not JSON compliant"):
        compress(make_policy(), CompressionRecipe(Precision.FLOAT32), metadata={"nan": float("nan")})


def test_equal_policies_give_equal_bytes(precision):
    first, second = (write(make_policy(value="own", normalised=True), precision) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("network", "precision"), EXPORTS)
def test_the_whole_graph_is_one_partition_of_the_delegate(network, precision):
    model = write(NETWORKS[network](), precision)
    interpreter = load(model)
    (delegate,) = [op for op in interpreter._get_ops_details() if op["op_name"] == "DELEGATE"]
    inputs = {tensor["index"] for tensor in interpreter.get_input_details()}
    constants = {index for index, tensor in enumerate(parse(model).subgraphs[0].tensors) if tensor.buffer}
    # It reads only what comes from outside, and writes all that goes there: nothing is left for anybody else.
    assert inputs <= set(delegate["inputs"]) <= inputs | constants
    assert {tensor["index"] for tensor in interpreter.get_output_details()} == set(delegate["outputs"])


@pytest.mark.parametrize(("network", "precision"), EXPORTS)
def test_images_are_bytes_and_everything_else_is_float32(network, precision):
    graph = NETWORKS[network]()
    interpreter = load(write(graph, precision), batch=3)
    inputs = {tensor["name"]: tensor for tensor in interpreter.get_input_details()}
    observation = inputs.pop("observation")
    assert [3, *graph.observation_shape] == observation["shape"].tolist()
    images = (np.int8, (1 / 255, -128)) if precision == Precision.INT8_FULL else (np.uint8, (1 / 255, 0))
    dtype, (scale, zero_point) = (np.float32, (0, 0)) if graph.image_shape is None else images
    assert dtype == observation["dtype"]
    assert observation["quantization"] == (pytest.approx(scale), zero_point)
    outputs = interpreter.get_output_details()
    state = {"state_in": [3, graph.state_size]} if graph.memory else {}
    assert state == {name: tensor["shape"].tolist() for name, tensor in inputs.items()}
    names = [*graph.heads, *(["value"] if graph.value_head else []), *(["state_out"] if graph.memory else [])]
    assert names == [tensor["name"] for tensor in outputs]
    assert {np.float32} == {tensor["dtype"] for tensor in [*inputs.values(), *outputs]}


def test_weights_are_aligned_in_the_file(precision):
    model = write(make_policy(features=5, actions=7), precision)
    payloads = [bytes(buffer.data) for buffer in parse(model).buffers if buffer.data is not None]
    assert len(payloads) > 6
    assert {0} == {model.index(payload) % 16 for payload in payloads if len(payload) > 16}


def test_buffer_zero_is_empty_and_stands_for_computed_tensors():
    parsed = parse(write(make_policy()))
    assert parsed.buffers[0].data is None
    computed = [tensor.name.decode() for tensor in parsed.subgraphs[0].tensors if tensor.buffer == 0]
    assert computed == ["observation", "torso[0].sums", "torso[0]", "torso[1].sums", "torso[1]", "logits"]


def test_int8_weights_have_a_scale_per_row():
    (tensor,) = [
        tensor for tensor in parse(write(make_policy())).subgraphs[0].tensors if tensor.type == TensorType.INT8
    ]
    assert tensor.name == b"torso[1].weight"
    assert len(tensor.quantization.scale) == 64
    assert tensor.quantization.zeroPoint.tolist() == [0] * 64
    assert tensor.quantization.quantizedDimension == 0


def test_small_matrices_stay_float32_under_int8():
    stored = weight_types(write(make_policy()))
    assert stored == {
        "torso[0].weight": TensorType.FLOAT32,
        "torso[1].weight": TensorType.INT8,
        "logits.weight": TensorType.FLOAT32,
    }


def test_float16_stores_weights_and_biases_alike_so_that_older_runtimes_delegate_them():
    tensors = parse(write(make_policy(normalised=True), Precision.FLOAT16)).subgraphs[0].tensors
    float32 = {tensor.name.decode() for tensor in tensors if tensor.buffer and tensor.type == TensorType.FLOAT32}
    assert {"observation_shift", "observation_scale"} == float32


@pytest.mark.parametrize(("scales", "version"), [(WeightScales.PER_TENSOR, 3), (WeightScales.PER_CHANNEL, 12)])
def test_the_operator_version_tells_old_runtimes_whether_they_can_read_the_scales(scales, version):
    codes = parse(write(make_policy(), weight_scales=scales)).operatorCodes
    versions = {code.version for code in codes if code.builtinCode == BuiltinOperator.FULLY_CONNECTED}
    assert {1, version} == versions


def test_int8_keeps_the_first_layer_and_the_heads_of_every_tower_exact():
    stored = weight_types(write(make_policy(features=40, actions=40, value="own"), Precision.INT8))
    assert {name for name, kind in stored.items() if kind == TensorType.INT8} == {
        "torso[1].weight",
        "value_torso[1].weight",
    }


def test_int8_full_is_int8_from_the_pixels_to_the_heads():
    graph = NETWORKS["resnet"]()
    assert {TensorType.INT8} == set(weight_types(write(graph, Precision.INT8_FULL)).values())
    kinds = [tensor.type for tensor in parse(write(graph, Precision.INT8_FULL)).subgraphs[0].tensors]
    assert kinds.count(TensorType.FLOAT32) == len(graph.heads)


def test_the_memory_of_static_int8_is_dynamic():
    stored = weight_types(write(NETWORKS["lstm"](), Precision.INT8))
    assert stored["memory.input.weight"] == stored["memory.state.weight"] == TensorType.INT8
    codes = parse(write(NETWORKS["lstm"](), Precision.INT8, weight_scales=WeightScales.PER_TENSOR)).operatorCodes
    assert {1, 3} == {code.version for code in codes if code.builtinCode == BuiltinOperator.FULLY_CONNECTED}


def test_kernels_keep_a_scale_per_output_where_matrices_have_one():
    tensors = parse(write(NETWORKS["nature"](), weight_scales=WeightScales.PER_TENSOR)).subgraphs[0].tensors
    scales = {
        tensor.name.decode(): len(tensor.quantization.scale) for tensor in tensors if tensor.type == TensorType.INT8
    }
    assert scales["torso[1].weight"] == 64
    assert scales["torso[4].weight"] == 1


@pytest.mark.parametrize("scales", list(WeightScales))
def test_int8_kernels_under_float_images_have_the_version_of_a_scale_per_output(scales):
    codes = parse(write(NETWORKS["nature"](), weight_scales=scales)).operatorCodes
    assert {5} == {code.version for code in codes if code.builtinCode == BuiltinOperator.CONV_2D}


def test_a_residual_needs_no_relu_of_its_own_in_static_int8():
    codes = parse(write(NETWORKS["resnet"](), Precision.INT8_FULL)).operatorCodes
    assert BuiltinOperator.RELU not in {code.builtinCode for code in codes}


def test_int8_is_a_third_of_the_size_of_float32():
    graph = make_policy(width=256)
    assert len(write(graph, Precision.INT8_DYNAMIC)) < len(write(graph, Precision.FLOAT32)) / 3
    assert len(write(graph, Precision.FLOAT16)) < len(write(graph, Precision.FLOAT32)) / 1.9
