"""Run a policy on observations that nobody acts on, and look at what it says: in the checker, and on probation.

What is looked for makes a policy useless wherever it is: outputs that are not finite, an action that is certain at
every observation, and slowness. Whether a policy is any good is not asked: that takes returns, and many episodes.
"""

import time
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_actor.policy import Policy
from edge_actor.policy_file import BadPolicyFile
from fleet_protocol.messages import RunSpec
from fleet_protocol.spaces import branches

_CERTAIN_LOGITS: Final = 40.0
"""The widest wire grid ends here. Beyond, every other action has a probability below 1e-17: it is never drawn."""
_CERTAIN_LOG_STDS: Final = 14.0
"""Deviations below a millionth, or above a million."""
_FLOAT16_LIMIT: Final = 65_504.0
_SLOWER_THAN_GOOD: Final = 20.0
_NEVER_TOO_SLOW_US: Final = 1000.0


def require_usable(policy: Policy, observations: Iterable[NDArray[Any]], *, at_most_s: float) -> list[float]:
    """Run a policy on observations, at least on the first, until the time is over.

    Args:
        policy: With a memory, it goes on from each step to the next, beginning with zeros.
        observations: `[N, ...]` each, stacked as the policy sees them.
        at_most_s: Seconds of processor time.

    Returns:
        Processor time of each run, in us: another process that takes the processor away does not count.

    Raises:
        BadPolicyFile: With the reason `runtime`, `nan` or `saturated`.
    """
    times_us: list[float] = []
    if policy.state_in is not None:
        policy.state_in[...] = 0
    is_certain = True
    for observation in observations:
        policy.observe(observation)
        times_us.append(_timed_inference(policy))
        is_certain &= _look(policy)
        if policy.state_in is not None and policy.state_out is not None:
            policy.state_in[...] = policy.state_out
        if sum(times_us) > 1e6 * at_most_s:
            break
    if is_certain:
        raise BadPolicyFile(
            f"it is certain of its action at each of {len(times_us)} observations, and would never try another",
            reason="saturated",
        )
    return times_us


def latency_budget_us(run: RunSpec, good_us: float) -> float:
    """How long one inference may take: a tick, or where the run has no clock, many times what a good policy takes.

    Args:
        run: What is played.
        good_us: Median of the last good policy, 0 where there is none.

    Returns:
        Microseconds; infinity where there is nothing to compare with.
    """
    if run.control_hz:
        return 1e6 / run.control_hz
    return max(_NEVER_TOO_SLOW_US, _SLOWER_THAN_GOOD * good_us) if good_us else float("inf")


def _timed_inference(policy: Policy) -> float:
    started = time.thread_time_ns()
    try:
        policy.infer()
    except (ValueError, RuntimeError) as error:
        raise BadPolicyFile(f"the runtime cannot run the file: {error}", reason="runtime") from error
    return (time.thread_time_ns() - started) / 1e3


def _look(policy: Policy) -> bool:
    """Whether the action is certain in each copy."""
    written = policy.outputs if policy.state_out is None else (*policy.outputs, policy.state_out)
    if not all(np.isfinite(output).all() for output in written):
        raise BadPolicyFile("its outputs are not finite", reason="nan")
    if policy.metadata.head == "categorical":
        return _is_certain(policy)
    if any(float(np.abs(output).max()) > _FLOAT16_LIMIT for output in policy.outputs):
        raise BadPolicyFile("its outputs are not finite in float16, as they travel", reason="nan")
    return bool((np.abs(policy.outputs[1]) > _CERTAIN_LOG_STDS).all())


def _is_certain(policy: Policy) -> bool:
    sizes = branches(policy.metadata.action)
    logits = np.split(policy.outputs[0], np.cumsum(sizes)[:-1], axis=-1)
    ranked = [np.sort(branch, axis=-1) for branch in logits if branch.shape[-1] > 1]
    return bool(ranked) and all(bool((row[:, -1] - row[:, -2] > _CERTAIN_LOGITS).all()) for row in ranked)
