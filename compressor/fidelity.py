"""Judge a compressed policy: run the file in the boards' own runtime, against the policy in float64.

Only this module of the package runs a file, and it imports ai-edge-litert when it does.
"""

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from compressor.layer import Float32Array, Float64Array
from compressor.pipeline import compress
from compressor.policy_graph import PolicyGraph
from compressor.recipe import Precision

# A Gaussian policy agrees on an action when its mean moves by no more than this share of the mean's range.
MEAN_TOLERANCE = 0.02

# What float32 arithmetic may add to a mean that never changes, and so has no range.
_ROUNDING = 1e-6

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
        agreement: share of observations on which both would act the same: equal argmax of the logits, or
            every action's mean within 2 % of that mean's range over the observations.
        kl_mean: mean of KL(float32 || compressed) over the observations, in nats.
        kl_max: the largest of them.
        heads: the error of each output, `value` included.
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


def measure_fidelity(graph: PolicyGraph, model: bytes, observations: Float32Array) -> FidelityReport:
    """Compare a file with the policy it was made from.

    Args:
        graph: the policy.
        model: its `.tflite`.
        observations: float32 `[N, D]`, at least one; best from the environment, as policies meet them.

    Returns:
        The report; every number is over all N observations.

    Raises:
        MissingRuntimeError: ai-edge-litert is not installed.
        ValueError: the observations are not float32 `[N, D]`.
    """
    _check_observations(graph, observations)
    expected = graph.forward(observations)
    actual = run_model(model, observations)
    kl = _kl_categorical(expected, actual) if "logits" in expected else _kl_gaussian(expected, actual)
    return FidelityReport(
        bytes=len(model),
        bytes_float32=len(compress(graph, precision=Precision.FLOAT32, metadata={}).model),
        agreement=_agreement(expected, actual),
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        heads={name: _head_error(expected[name], actual[name]) for name in expected},
    )


def run_model(model: bytes, observations: Float32Array) -> dict[str, Float32Array]:
    """Run a file in ai-edge-litert, in one thread and one batch.

    Args:
        model: a `.tflite` that this package wrote.
        observations: float32 `[N, D]`.

    Returns:
        Each output by its name, float32 `[N, out]`.

    Raises:
        MissingRuntimeError: ai-edge-litert is not installed.
    """
    try:
        runtime = importlib.import_module("ai_edge_litert.interpreter")
    except ImportError as error:
        raise MissingRuntimeError("fidelity needs ai-edge-litert: pip install 'edgerl[learner]'") from error
    interpreter = runtime.Interpreter(model_content=model, num_threads=1)
    (observation,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(observation["index"], observations.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(observation["index"], observations)
    interpreter.invoke()
    return {output["name"]: interpreter.get_tensor(output["index"]) for output in interpreter.get_output_details()}


def _check_observations(graph: PolicyGraph, observations: Float32Array) -> None:
    size = graph.observation_size
    if observations.dtype != np.float32 or observations.shape != (len(observations), size) or not len(observations):
        raise ValueError(
            f"observations are {observations.dtype} {list(observations.shape)}: they must be float32 [N, {size}], "
            "N at least 1"
        )


def _agreement(expected: Outputs, actual: Outputs) -> float:
    if "logits" in expected:
        return float(np.mean(expected["logits"].argmax(axis=1) == actual["logits"].argmax(axis=1)))
    tolerance = MEAN_TOLERANCE * np.ptp(expected["mean"], axis=0) + _ROUNDING
    return float(np.mean(np.all(np.abs(actual["mean"] - expected["mean"]) <= tolerance, axis=1)))


def _kl_categorical(expected: Outputs, actual: Outputs) -> Float64Array:
    """Return sum_a p(a) (log p(a) - log q(a)) for each observation, `[N]`."""
    log_p, log_q = _log_softmax(expected["logits"]), _log_softmax(actual["logits"])
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
