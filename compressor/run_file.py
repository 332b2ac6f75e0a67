"""Run a policy file in the boards' own runtime: its outputs, its delegated graph, and how long it takes.

Only this module of the package runs a file, and it imports ai-edge-litert when it does.
"""

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from compressor.layer import Float32Array
from compressor.policy_graph import Observations
from compressor.windows import FloatArray

Observation = npt.NDArray[Any]

_SIGN_BIT: Final = 0x80
"""-128 is black in an int8 image, and 0 in a uint8 one: the same bytes but for the highest bit."""
_WARM_UP: Final = 50


class MissingRuntimeError(ImportError):
    """ai-edge-litert is not installed."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """How long a file takes on this machine, in one thread and for one observation at a time.

    Attributes:
        load_ms: from the bytes to a file that is ready to run.
        p50_us: of a step, the interpreter alone.
        p99_us: of a step.
    """

    load_ms: float
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Delegation:
    """What the runtime has made of a file's graph, as it says itself.

    Attributes:
        partitions: parts that XNNPACK runs; 1 when nothing is left between them.
        left: operations that it does not run, by name; each costs a call of its own.
    """

    partitions: int
    left: list[str]


def run_model(model: bytes, observations: Observations, state: Float32Array | None = None) -> dict[str, Float32Array]:
    """Run a file in ai-edge-litert, in one thread and one batch.

    Args:
        model: a `.tflite` that this package wrote.
        observations: float32 `[N, D]` or uint8 `[N, height, width, channels]`.
        state: float32 `[N, state_size]` for a file with a memory; None for zeros, as an episode begins.

    Returns:
        Each output by its name, float32 `[N, out]`.

    Raises:
        MissingRuntimeError: ai-edge-litert is not installed.
    """
    return open_model(model)(observations, state)


def open_model(model: bytes) -> Callable[[Observations, FloatArray | None], dict[str, Float32Array]]:
    """Load a file; the result runs it as `run_model` does.

    Raises:
        MissingRuntimeError: ai-edge-litert is not installed.
    """
    interpreter = _interpreter(model)

    def run(observations: Observations, state: FloatArray | None) -> dict[str, Float32Array]:
        values: dict[str, npt.NDArray[np.generic]] = {}
        for details in interpreter.get_input_details():
            batch = (len(observations), *details["shape"][1:])
            values[details["index"]] = _as_input(details, observations, np.zeros(batch) if state is None else state)
            interpreter.resize_tensor_input(details["index"], batch, strict=True)
        interpreter.allocate_tensors()
        for index, array in values.items():
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return {output["name"]: interpreter.get_tensor(output["index"]) for output in interpreter.get_output_details()}

    return run


def _as_input(details: Mapping[str, Any], observations: Observations, state: FloatArray) -> npt.NDArray[np.generic]:
    if details["name"] == "state_in":
        return state.astype(np.float32)
    is_int8_image = details["dtype"] is np.int8
    return (observations.view(np.uint8) ^ _SIGN_BIT).view(np.int8) if is_int8_image else observations


def open_step(model: bytes) -> Callable[[Observation], object]:
    """Load a file without a memory; the result runs it for one observation, and gives its first output's tensor."""
    interpreter = _interpreter(model)
    interpreter.allocate_tensors()
    seen, _ = _inputs(interpreter)
    output = interpreter.get_output_details()[0]["index"]

    def step(observation: Observation) -> object:
        interpreter.set_tensor(seen["index"], _as_input(seen, observation[None], np.zeros(0)))
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return step


def time_steps(model: bytes, observations: Observations, *, steps: int = 1000) -> StepTime:
    """Time a file on this machine.

    Args:
        model: a `.tflite` that this package wrote.
        observations: what it sees, one after the other and over again.
        steps: how many are timed, after some that are not.

    Raises:
        MissingRuntimeError: ai-edge-litert is not installed.
    """
    started = time.perf_counter_ns()
    interpreter = _interpreter(model)
    interpreter.allocate_tensors()
    loaded = time.perf_counter_ns()
    rows = observations[np.arange(_WARM_UP + steps) % len(observations)]
    seen, states = _inputs(interpreter)
    for details in states:
        interpreter.set_tensor(details["index"], np.zeros(details["shape"], np.float32))
    taken = np.zeros(len(rows), np.int64)
    for step in range(len(rows)):
        interpreter.set_tensor(seen["index"], _as_input(seen, rows[step : step + 1], np.zeros(0)))
        began = time.perf_counter_ns()
        interpreter.invoke()
        taken[step] = time.perf_counter_ns() - began
    p50, p99 = np.percentile(taken[_WARM_UP:] / 1e3, [50, 99])
    return StepTime(load_ms=(loaded - started) / 1e6, p50_us=float(p50), p99_us=float(p99))


def read_delegation(model: bytes) -> Delegation:
    """Ask the runtime which parts of a file XNNPACK runs.

    Raises:
        MissingRuntimeError: ai-edge-litert is not installed.
    """
    interpreter = _interpreter(model)
    interpreter.allocate_tensors()
    # The only place where the runtime tells; a delegated part stands there beside what it replaces.
    nodes: list[dict[str, Any]] = interpreter._get_ops_details()  # noqa: SLF001
    parts = [node for node in nodes if node["op_name"] == "DELEGATE"]
    made = {index for part in parts for index in part["outputs"]}
    needed = {details["index"] for details in interpreter.get_output_details()}
    needed |= {index for part in parts for index in part["inputs"]}
    producers = {index: node for node in nodes if node["op_name"] != "DELEGATE" for index in node["outputs"]}
    left: dict[int, str] = {}
    waiting = list(needed - made)
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node["index"] not in left:
            left[node["index"]] = node["op_name"]
            waiting += set(node["inputs"]) - made
    return Delegation(partitions=len(parts), left=[left[index] for index in sorted(left)])


def int8_grids(model: bytes) -> dict[str, tuple[float, float]]:
    """The least and the largest value that each static int8 tensor of a file can hold, by the tensor's name.

    Raises:
        MissingRuntimeError: ai-edge-litert is not installed.
    """
    interpreter = _interpreter(model)
    interpreter.allocate_tensors()
    grids: dict[str, tuple[float, float]] = {}
    for details in interpreter.get_tensor_details():
        scale, zero = details["quantization"]
        if details["dtype"] is np.int8 and scale:
            grids[details["name"]] = ((-128 - zero) * scale, (127 - zero) * scale)
    return grids


def _interpreter(model: bytes) -> Any:  # noqa: ANN401 - the runtime is not typed
    try:
        runtime = importlib.import_module("ai_edge_litert.interpreter")
    except ImportError as error:
        raise MissingRuntimeError("fidelity needs ai-edge-litert: pip install 'edgerl[learner]'") from error
    return runtime.Interpreter(model_content=model, num_threads=1)


def _inputs(interpreter: Any) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:  # noqa: ANN401 - not typed
    """The observation's input, and a memory's."""
    details = interpreter.get_input_details()
    (seen,) = (each for each in details if each["name"] == "observation")
    return seen, [each for each in details if each["name"] != "observation"]
