"""Every file is right in tflite-runtime 2.14 too, or is refused there; none is wrong in silence."""

import subprocess

import numpy as np
import pytest
from policy_factories import NETWORKS, NOT_FULL, export, make_observations, make_states

from compressor import Precision, WeightScales
from compressor.run_file import run_model

RUN_FILES = """
import pathlib, sys
import numpy as np
from tflite_runtime.interpreter import Interpreter

folder = pathlib.Path(sys.argv[1])
for model in folder.glob("*.tflite"):
    values = np.load(model.with_suffix(".npz"))
    try:
        interpreter = Interpreter(model_path=str(model), num_threads=1)
    except ValueError as error:
        model.with_suffix(".refused").write_text(str(error))
        continue
    for tensor in interpreter.get_input_details():
        interpreter.resize_tensor_input(tensor["index"], values[tensor["name"]].shape)
    interpreter.allocate_tensors()
    for tensor in interpreter.get_input_details():
        interpreter.set_tensor(tensor["index"], values[tensor["name"]])
    interpreter.invoke()
    outputs = {tensor["name"]: interpreter.get_tensor(tensor["index"]) for tensor in interpreter.get_output_details()}
    np.savez(model.with_suffix(".out.npz"), **outputs)
"""

CASES = [
    (network, precision, scales)
    for network in NETWORKS
    for precision in (NOT_FULL if "gru" in network or "lstm" in network else Precision)
    for scales in WeightScales
    if scales is WeightScales.PER_CHANNEL or precision in (Precision.INT8_DYNAMIC, Precision.INT8)
]


def name_of(network, precision, scales):
    return f"{network} {precision} {scales}"


def inputs_of(network):
    graph = NETWORKS[network]()
    return graph, make_observations(graph, 40), make_states(graph, 40) if graph.memory else None


@pytest.fixture(scope="module")
def results(tflite_python, tmp_path_factory):
    """The folder in which the old runtime has run all files, in one process."""
    folder = tmp_path_factory.mktemp("files")
    for network, precision, scales in CASES:
        graph, observations, states = inputs_of(network)
        name = name_of(network, precision, scales)
        (folder / f"{name}.tflite").write_bytes(export(graph, precision, weight_scales=scales))
        is_int8_image = graph.image_shape and precision == Precision.INT8_FULL
        seen = (observations ^ 0x80).view(np.int8) if is_int8_image else observations
        np.savez(folder / f"{name}.npz", observation=seen, **({} if states is None else {"state_in": states}))
    subprocess.run([tflite_python, "-c", RUN_FILES, folder], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(("network", "precision", "scales"), CASES, ids=str)
def test_the_old_runtime_computes_the_policy_or_refuses_the_file(results, network, precision, scales):
    graph, observations, states = inputs_of(network)
    name = name_of(network, precision, scales)
    is_dynamic = precision in (Precision.INT8_DYNAMIC, Precision.INT4_DYNAMIC)
    has_row_scales = is_dynamic or (precision == Precision.INT8 and graph.memory is not None)
    if has_row_scales and scales == WeightScales.PER_CHANNEL:
        assert "'FULLY_CONNECTED' version '12'" in (results / f"{name}.refused").read_text()
        return
    with np.load(results / f"{name}.out.npz") as outputs:
        old = {output: outputs[output] for output in outputs.files}
    expected = graph.forward(observations, states)
    new = run_model(export(graph, precision, weight_scales=scales), observations, states)
    assert expected.keys() == old.keys()
    for output, values in expected.items():
        error, allowed = (np.sqrt(np.mean((actual[output] - values) ** 2)) for actual in (old, new))
        # Kernels differ in how they round; both must be as close to the policy as the precision is.
        assert error <= 2 * allowed + 1e-5 * values.std()
