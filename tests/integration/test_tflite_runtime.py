"""Boards on tflite-runtime 2.14 and numpy 1 (32-bit Bookworm has nothing else), in an environment of their own."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fleet_processes import board, learner, read_report
from msgspec import to_builtins

from compressor import CompressionRecipe, Layer, PolicyGraph, Precision, WeightScales, compress
from edgerl.broker import RunningBroker
from fleet_protocol.spaces import BoxSpec, DiscreteSpec

RUN_A_FILE = """
import json, sys
import numpy as np
from edge_actor.policy import Policy
from edge_actor.policy_file import BadPolicyFile

model, observations = open(sys.argv[1], "rb").read(), np.load(sys.argv[2])
try:
    policy = Policy(model, copies=len(observations))
except BadPolicyFile as error:
    print(json.dumps({"refused": str(error)}))
else:
    policy.observe(observations)
    policy.infer()
    print(json.dumps({"logits": policy.outputs[0].tolist()}))
"""
FULLY_CONNECTED = b"\x09\x00\x00\x00"  # its code, which the version follows in the table of operators
VERSION_3, VERSION_12 = (FULLY_CONNECTED + bytes([number, 0, 0, 0]) for number in (3, 12))


@pytest.fixture
def graph() -> PolicyGraph:
    rng = np.random.default_rng(0)

    def layer(inputs: int, outputs: int) -> Layer:
        # Rows of very different sizes: one scale a matrix and one scale a row are then far apart.
        weight = (
            rng.standard_normal((outputs, inputs), np.float32)
            * np.geomspace(0.05, 1, outputs, dtype=np.float32)[:, None]
        )
        return Layer(weight / np.float32(np.sqrt(inputs)), np.zeros(outputs, np.float32), "tanh")

    head = layer(64, 4)
    return PolicyGraph(torso=(layer(32, 64), layer(64, 64)), heads={"logits": Layer(head.weight, head.bias)})


@pytest.fixture
def observations() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((50, 32), np.float32)


def file_of(graph: PolicyGraph, precision: Precision, scales: WeightScales = WeightScales.PER_CHANNEL) -> bytes:
    metadata = {
        "run_id": "r",
        "policy_version": 1,
        "head": "categorical",
        "observation": to_builtins(BoxSpec(shape=(32,), dtype="float32")),
        "action": to_builtins(DiscreteSpec(n=4)),
    }
    return compress(graph, CompressionRecipe(precision, scales), metadata=metadata).model


def run_there(python: Path, model: bytes, observations: np.ndarray, folder: Path) -> dict[str, object]:
    (folder / "policy.tflite").write_bytes(model)
    np.save(folder / "observations.npy", observations)
    command = [python, "-c", RUN_A_FILE, folder / "policy.tflite", folder / "observations.npy"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(said.splitlines()[-1])


def error_of(answer: dict[str, object], graph: PolicyGraph, observations: np.ndarray) -> float:
    """The largest error of a logit, as a share of the logits' range."""
    expected = graph.forward(observations)["logits"]
    return float(np.abs(np.asarray(answer["logits"]) - expected).max() / np.ptp(expected))


@pytest.mark.parametrize(
    ("precision", "scales", "largest_error"),
    [
        (Precision.FLOAT32, WeightScales.PER_CHANNEL, 1e-5),
        (Precision.FLOAT16, WeightScales.PER_CHANNEL, 2e-3),
        (Precision.INT8_DYNAMIC, WeightScales.PER_TENSOR, 0.05),
    ],
)
def test_the_old_runtime_computes_what_it_can_read(
    tflite_python: Path,
    graph: PolicyGraph,
    observations: np.ndarray,
    tmp_path: Path,
    precision: Precision,
    scales: WeightScales,
    largest_error: float,
):
    answer = run_there(tflite_python, file_of(graph, precision, scales), observations, tmp_path)
    assert error_of(answer, graph, observations) <= largest_error


def test_the_trap_a_scale_per_row_is_read_wrongly_unless_its_version_forbids_it(
    tflite_python: Path, graph: PolicyGraph, observations: np.ndarray, tmp_path: Path
):
    """Under an older version number the same file loads, runs, and is wrong without a word."""
    model = file_of(graph, Precision.INT8_DYNAMIC)
    refused = run_there(tflite_python, model, observations, tmp_path)
    assert "refuses the file" in str(refused["refused"])
    assert model.count(VERSION_12) == 1
    answer = run_there(tflite_python, model.replace(VERSION_12, VERSION_3), observations, tmp_path)
    assert error_of(answer, graph, observations) > 0.3


def test_a_board_on_the_old_runtime_learns_beside_one_on_the_new(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, tflite_python: Path
):
    """The learner writes one scale a matrix as soon as such a board is there: nothing is refused, and it learns."""
    flags = ("--target-return", "195", "--time-limit-s", "60")
    with (
        learner(tmp_path, mosquitto.address, fleet_name, *flags) as learning,
        board(tmp_path, mosquitto.address, fleet_name, "old", python=tflite_python),
        board(tmp_path, mosquitto.address, fleet_name, "new"),
    ):
        assert learning.process.wait(90) == 0, learning.said()
    report = read_report(tmp_path)
    assert report["boards"]["old"]["env_steps"] > 1000
    assert report["boards"]["old"]["counters"].get("policies_refused", 0) == 0
    assert "one scale" in learning.said()
