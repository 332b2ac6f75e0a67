"""Judge a compressed policy: run the file in the boards' own runtime, against the policy in float64.

Only this module of the package runs a file, and it imports ai-edge-litert when it does.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compressor.layer import Float32Array, Float64Array
from compressor.pipeline import compress
from compressor.policy_graph import Observations, PolicyGraph
from compressor.recipe import float32
from compressor.windows import FloatArray

# A Gaussian policy agrees on an action when its mean moves by no more than this share of the mean's range.
MEAN_TOLERANCE = 0.02

# What float32 arithmetic may add to a mean that never changes, and so has no range.
_ROUNDING = 1e-6

# -128 is black in an int8 image, and 0 in a uint8 one: the same bytes but for the highest bit.
_SIGN_BIT = 0x80

Outputs = Mapping[str, npt.NDArray[np.floating]]


class MissingRuntimeError(ImportError):
    """ai-edge-litert is not installed."""


@dataclass(frozen=True, slots=True)
class HeadError:
    """How far an output is from the reference, in the output's own unit."""

    largest_error: float
    rms_error: float


@dataclass(frozen=True, slots=True)
class FidelityReport:
    """What compression costs a policy, over a set of observations.

    Attributes:
        bytes: size of the file.
        bytes_float32: size of the same policy's float32 file, without metadata.
        agreement: share of observations on which both would act the same: equal argmax of every branch's logits, or
            every action's mean within 2 % of that mean's range over the observations.
        kl_mean: mean of KL(float32 || compressed) over the observations, in nats.
        kl_max: the largest of them.
        heads: the error of each output, `value` and `state_out` included.
    """

    bytes: int
    bytes_float32: int
    agreement: float
    kl_mean: float
    kl_max: float
    heads: dict[str, HeadError]

    def as_dict(self) -> dict[str, object]:
        """Return the report as JSON would hold it."""
        return asdict(self)

    def to_table(self) -> str:
        """Return the report as lines of text, one figure each."""
        share = self.bytes / self.bytes_float32
        lines = [
            f"{'bytes':<24}{self.bytes} of {self.bytes_float32} ({share:.0%})",
            f"{'agreement':<24}{self.agreement:.2%}",
            f"{'KL mean, nats':<24}{self.kl_mean:.3g}",
            f"{'KL max, nats':<24}{self.kl_max:.3g}",
        ]
        for name, error in self.heads.items():
            lines.append(f"{name + ' error rms, max':<24}{error.rms_error:.3g}, {error.largest_error:.3g}")
        return "\n".join(lines)


def measure_fidelity(
    graph: PolicyGraph,
    model: bytes,
    observations: Observations,
    *,
    states: Float32Array | None = None,
    branches: Sequence[int] | None = None,
) -> FidelityReport:
    """Compare a file with the policy it was made from.

    Args:
        graph: the policy.
        model: its `.tflite`.
        observations: float32 `[N, D]` or uint8 `[N, height, width, channels]`, at least one; best from the
            environment, as policies meet them.
        states: float32 `[N, state_size]`, what a memory remembers before each; None if the observations are one
            episode in its order, in which policy and file each go on from the state that they gave themselves.
        branches: how many actions each branch of a categorical head has; None if there is only one.

    Returns:
        The report; every number is over all N observations.

    Raises:
        MissingRuntimeError: ai-edge-litert is not installed.
        ValueError: the observations, states or branches are not the policy's.
    """
    graph.check_observations(observations)
    run = _open(model)
    if graph.memory is None or states is not None:
        _check_states(graph, states, count=len(observations))
        expected, actual = graph.forward(observations, states), run(observations, states)
    else:
        expected, actual = (_play(step, observations, graph.state_size) for step in (graph.forward, run))
    is_categorical = "logits" in expected
    cuts = _cuts(expected, branches)
    kl = _kl_categorical(expected, actual, cuts) if is_categorical else _kl_gaussian(expected, actual)
    return FidelityReport(
        bytes=len(model),
        bytes_float32=len(compress(graph, float32(), metadata={}).model),
        agreement=_same_choice(expected, actual, cuts) if is_categorical else _same_mean(expected, actual),
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        heads={name: _head_error(expected[name], actual[name]) for name in expected},
    )


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
    return _open(model)(observations, state)


def _open(model: bytes) -> Callable[[Observations, FloatArray | None], dict[str, Float32Array]]:
    """Load a file; the result runs it as `run_model` does."""
    try:
        runtime = importlib.import_module("ai_edge_litert.interpreter")
    except ImportError as error:
        raise MissingRuntimeError("fidelity needs ai-edge-litert: pip install 'edgerl[learner]'") from error
    interpreter = runtime.Interpreter(model_content=model, num_threads=1)

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


def _play(
    step: Callable[[Observations, FloatArray], Outputs], observations: Observations, state_size: int
) -> dict[str, npt.NDArray[np.floating]]:
    """Run an episode, each step with the state of the step before; return all outputs as one batch."""
    state: FloatArray = np.zeros((1, state_size))
    steps: list[Outputs] = []
    for index in range(len(observations)):
        steps.append(step(observations[index : index + 1], state))
        state = steps[-1]["state_out"]
    return {name: np.concatenate([outputs[name] for outputs in steps]) for name in steps[0]}


def _check_states(graph: PolicyGraph, states: Float32Array | None, *, count: int) -> None:
    if graph.memory is None and states is not None:
        raise ValueError("states came for a policy that has no memory: leave them out")
    if states is not None and (states.dtype != np.float32 or states.shape != (count, graph.state_size)):
        raise ValueError(
            f"states are {states.dtype} {list(states.shape)}: they must be float32 [{count}, {graph.state_size}], "
            "one for each observation"
        )


def _cuts(expected: Outputs, branches: Sequence[int] | None) -> npt.NDArray[np.integer]:
    """Return where the logits of a branch end and those of the next begin."""
    if branches is None:
        return np.zeros(0, np.intp)
    actions = expected["logits"].shape[1] if "logits" in expected else 0
    if sum(branches) != actions:
        raise ValueError(f"branches {list(branches)} sum to {sum(branches)}, but the policy has {actions} logits")
    return np.cumsum(branches, dtype=np.intp)[:-1]


def _same_choice(expected: Outputs, actual: Outputs, cuts: npt.NDArray[np.integer]) -> float:
    same = [
        p.argmax(axis=1) == q.argmax(axis=1)
        for p, q in zip(
            np.split(expected["logits"], cuts, axis=1), np.split(actual["logits"], cuts, axis=1), strict=True
        )
    ]
    return float(np.mean(np.all(same, axis=0)))


def _same_mean(expected: Outputs, actual: Outputs) -> float:
    tolerance = MEAN_TOLERANCE * np.ptp(expected["mean"], axis=0) + _ROUNDING
    return float(np.mean(np.all(np.abs(actual["mean"] - expected["mean"]) <= tolerance, axis=1)))


def _kl_categorical(expected: Outputs, actual: Outputs, cuts: npt.NDArray[np.integer]) -> Float64Array:
    """Return sum_a p(a) (log p(a) - log q(a)), summed over the branches, for each observation, `[N]`."""
    log_p, log_q = (
        np.hstack([_log_softmax(branch) for branch in np.split(outputs["logits"], cuts, axis=1)])
        for outputs in (expected, actual)
    )
    return _not_negative((np.exp(log_p) * (log_p - log_q)).sum(axis=1))


def _kl_gaussian(expected: Outputs, actual: Outputs) -> Float64Array:
    """Return sum_a log(s_q / s_p) + (s_p^2 + (m_p - m_q)^2) / (2 s_q^2) - 1/2 for each observation, `[N]`."""
    log_ratio = expected["log_std"] - actual["log_std"].astype(np.float64)
    distance = (expected["mean"] - actual["mean"]) / np.exp(actual["log_std"].astype(np.float64))
    return _not_negative((0.5 * (np.exp(2 * log_ratio) + distance**2 - 1) - log_ratio).sum(axis=1))


def _not_negative(kl: Float64Array) -> Float64Array:
    """Take away what rounding leaves below zero where both distributions are equal."""
    return np.maximum(kl, 0.0)


def _log_softmax(logits: npt.NDArray[np.floating]) -> Float64Array:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _head_error(expected: npt.NDArray[np.floating], actual: npt.NDArray[np.floating]) -> HeadError:
    error = actual - expected
    return HeadError(largest_error=float(np.abs(error).max()), rms_error=float(np.sqrt(np.mean(error**2))))
