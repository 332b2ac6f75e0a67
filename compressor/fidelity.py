"""Judge a compressed policy: run its file in the boards' own runtime, against the policy in float64.

file, policy, observations --> FidelityReport     what it costs the policy, and what it saves the board
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from compressor.divergence import HeadError, Outputs, branches_of, head_error, is_clear, kl_divergence, same_action
from compressor.layer import Float32Array
from compressor.pipeline import compress
from compressor.policy_graph import Observations, PolicyGraph
from compressor.recipe import float32
from compressor.run_file import Delegation, StepTime, int8_grids, open_model, read_delegation, time_steps
from compressor.windows import FloatArray


@dataclass(frozen=True, slots=True)
class FidelityReport:
    """What compression costs a policy over a set of observations, and what is gained on this machine.

    Attributes:
        bytes: size of the file.
        bytes_float32: size of the same policy's float32 file, without metadata.
        agreement: share of observations on which both would act the same: equal argmax of every branch's logits, or
            every action's mean within 2 % of that mean's range over the observations.
        clear: share of observations in which the best action leads by more than the largest error of any logit.
        agreement_where_clear: `agreement` among those; 1 where there are none.
        kl_mean: mean of KL(float32 || compressed) over the observations, in nats.
        kl_max: the largest of them.
        saturation: share of observations in which something is cut off at the end of a static int8 grid.
        heads: the error of each output that both have, `value` and `state_out` included.
        time: of a step on this machine.
        delegation: how much of the file runs in XNNPACK's kernels.
    """

    bytes: int
    bytes_float32: int
    agreement: float
    clear: float
    agreement_where_clear: float
    kl_mean: float
    kl_max: float
    saturation: float
    heads: dict[str, HeadError]
    time: StepTime
    delegation: Delegation

    def as_dict(self) -> dict[str, object]:
        """Return the report as JSON would hold it."""
        return asdict(self)

    def to_table(self) -> str:
        """Return the report as lines of text, one figure each."""
        share, left = self.bytes / self.bytes_float32, ", ".join(self.delegation.left)
        figures = {
            "bytes": f"{self.bytes} of {self.bytes_float32} ({share:.0%})",
            "agreement": f"{self.agreement:.2%}",
            "  where it is clear": f"{self.agreement_where_clear:.2%} of {self.clear:.0%}",
            "KL mean, nats": f"{self.kl_mean:.3g}",
            "KL max, nats": f"{self.kl_max:.3g}",
            "saturation": f"{self.saturation:.2%}",
            **{
                f"{name} error rms, max": f"{error.rms_error:.3g}, {error.largest_error:.3g} "
                f"({error.range_error:.2%} of its range)"
                for name, error in self.heads.items()
            },
            "load, ms": f"{self.time.load_ms:.2f}",
            "step p50, p99, us": f"{self.time.p50_us:.1f}, {self.time.p99_us:.1f}",
            "in XNNPACK": f"{self.delegation.partitions} partition(s), " + (f"without {left}" if left else "all of it"),
        }
        return "\n".join(f"{name:<24}{figure}" for name, figure in figures.items())


def measure_fidelity(
    graph: PolicyGraph,
    model: bytes,
    observations: Observations,
    *,
    states: Float32Array | None = None,
    branches: Sequence[int] | None = None,
    stored: PolicyGraph | None = None,
) -> FidelityReport:
    """Compare a file with a policy: the one that it was made from, or the teacher of that.

    Args:
        graph: the policy.
        model: the `.tflite`.
        observations: float32 `[N, D]` or uint8 `[N, height, width, channels]`, at least one; best from the
            environment, as policies meet them.
        states: float32 `[N, state_size]`, what a memory remembers before each; None if the observations are one
            episode in its order, in which policy and file each go on from the state that they gave themselves.
        branches: how many actions each branch of a categorical head has; None if there is only one.
        stored: what the file was made from, where `graph` is its teacher: the file's grids are for its activations.

    Returns:
        The report; every number is over all N observations.

    Raises:
        MissingRuntimeError: ai-edge-litert is not installed.
        ValueError: the observations, states or branches are not the policy's.
    """
    graph.check_observations(observations)
    run = open_model(model)
    if graph.memory is None or states is not None:
        _check_states(graph, states, count=len(observations))
        expected, actual = graph.forward(observations, states), run(observations, states)
    else:
        expected, actual = (_play(step, observations, graph.state_size) for step in (graph.forward, run))
    return judge_outputs(
        expected,
        actual,
        model=model,
        observations=observations,
        bytes_float32=len(compress(graph, float32(), metadata={}).model),
        saturation=_saturation(stored or graph, model, observations, states),
        branches=branches,
    )


def judge_outputs(
    expected: Outputs,
    actual: Outputs,
    *,
    model: bytes,
    observations: Observations,
    bytes_float32: int,
    saturation: float = 0.0,
    branches: Sequence[int] | None = None,
) -> FidelityReport:
    """Compare what a file gave with what a policy gave, whatever that is made of.

    Args:
        expected: of the policy, float64 `[N, out]` by name.
        actual: of the file.
        model: the file.
        observations: that both saw, `[N, ...]`.
        bytes_float32: size of the policy's float32 file.
        saturation: share of observations that a static grid cuts something of; 0 for a file without such grids.
        branches: as in `measure_fidelity`.

    Raises:
        MissingRuntimeError: ai-edge-litert is not installed.
        ValueError: the branches are not the policy's.
    """
    cuts = branches_of(expected, branches)
    same, clear = same_action(expected, actual, cuts), is_clear(expected, actual, cuts)
    kl = kl_divergence(expected, actual, cuts)
    return FidelityReport(
        bytes=len(model),
        bytes_float32=bytes_float32,
        agreement=float(same.mean()),
        clear=float(clear.mean()),
        agreement_where_clear=float(same[clear].mean()) if clear.any() else 1.0,
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        saturation=saturation,
        heads={name: head_error(expected[name], actual[name]) for name in expected if name in actual},
        time=time_steps(model, observations),
        delegation=read_delegation(model),
    )


def _saturation(graph: PolicyGraph, model: bytes, observations: Observations, states: Float32Array | None) -> float:
    """The share of observations for which some tensor's exact values do not fit onto the file's grid for it."""
    grids, cut_off = int8_grids(model), np.zeros(len(observations), np.bool_)

    def note(name: str, values: FloatArray) -> None:
        if name in grids:
            low, high = grids[name]
            step = (high - low) / 255  # the format's grid for a TANH ends one below 1
            outside = (values < low - step) | (values > high + step)
            np.logical_or(cut_off, outside.reshape(len(outside), -1).any(axis=1), out=cut_off)

    if grids:
        graph.trace(graph.normalise(observations), states, note)
    return float(cut_off.mean())


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
