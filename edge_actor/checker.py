"""The checker: a process that meets every policy before any worker does, so that it dies of a bad one in their place.

It is started once and stays warm: a policy is read, loaded and tried within a few milliseconds. It has no environment,
no network, and little memory, and it yields the processor to those who act.
"""

import os
import resource
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_actor.checker_messages import CheckerReady, CheckPolicy, PolicyChecked
from edge_actor.policy import Policy, interpreter_class
from edge_actor.policy_file import BadPolicyFile
from edge_actor.policy_inspection import PolicyInspection
from edge_actor.policy_trial import latency_budget_us, require_usable
from fleet_protocol.codec import decode, encode
from fleet_protocol.spaces import stacked_shape

ACTIVATION_BYTES: Final = 64 * 1024 * 1024
"""What the activations of all copies may take: Nature's network takes 0.4 MB a copy."""
CPU_S: Final = 5
"""Processor time for one policy; one that needs more is ended by the kernel."""
_MEMORY_BYTES: Final = 256 * 1024 * 1024
_NICENESS: Final = 5
_OBSERVATIONS: Final = 12
_TRIAL_S: Final = 0.01
_SEED: Final = 7
_TYPICAL: Final = (1.0, 10.0)
"""Observations are drawn with these deviations: policies see roughly normalised numbers, and outliers."""


def check(request: CheckPolicy) -> PolicyChecked:
    """Inspect, load and try a policy.

    Raises:
        BadPolicyFile: No worker may have it.
    """
    inspection = PolicyInspection(request.model, copies=request.copies, memory_bytes=ACTIVATION_BYTES)
    policy = Policy(request.model, copies=request.copies)
    metadata = policy.metadata
    inspection.require_precision(metadata.recipe)
    named = (metadata.run_id, metadata.policy_version, metadata.frame_stack)
    expected = (request.run.run_id, request.version, request.run.frame_stack)
    if named != expected:
        raise BadPolicyFile(
            f"expected a policy of run, version and frame stack {expected}, and it says {named}", reason="metadata"
        )
    shapes: dict[str, tuple[int, ...]] = {"observation": stacked_shape(metadata.observation, metadata.frame_stack)}
    if metadata.state_size:
        shapes["state_in"] = (metadata.state_size,)
    inspection.require_inputs(shapes)
    policy.warm_up()
    times_us = require_usable(policy, observations_for(policy), at_most_s=_TRIAL_S)
    budget_us, slow_us = latency_budget_us(request.run, request.good_us), float(np.percentile(times_us, 99))
    if slow_us > budget_us:
        raise BadPolicyFile(f"an inference takes {slow_us:.0f} us, and may take {budget_us:.0f}", reason="slow")
    return PolicyChecked(serial=request.serial, inference_us=float(np.median(times_us)))


def observations_for(policy: Policy) -> Iterator[NDArray[Any]]:
    """Zeros, then noise and outliers, `[N, ...]`: what a policy is tried with, the same for every one of its shape."""
    rng = np.random.default_rng(_SEED)  # the same for every policy and board: a refusal can be repeated
    spec = policy.metadata.observation
    shape = (policy.observation.shape[0], *stacked_shape(spec, policy.metadata.frame_stack))
    yield np.zeros(shape, spec.dtype)
    for turn in range(_OBSERVATIONS):
        if spec.dtype == "uint8":
            yield rng.integers(0, 256, shape, np.uint8)
        else:
            yield _TYPICAL[turn % len(_TYPICAL)] * rng.standard_normal(shape, np.float32)


def _answer(request: CheckPolicy) -> PolicyChecked:
    used_s = int(resource.getrusage(resource.RUSAGE_SELF).ru_utime + resource.getrusage(resource.RUSAGE_SELF).ru_stime)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (used_s + 1 + CPU_S, hard))
    try:
        return check(request)
    except BadPolicyFile as error:
        return PolicyChecked(serial=request.serial, reason=error.reason, sentence=str(error))
    except MemoryError:
        return PolicyChecked(serial=request.serial, reason="memory", sentence="it does not fit into memory")


def limit_memory() -> None:
    """Take no more than a policy may need, and write no file: a file from elsewhere is about to be loaded."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(kind, (0, 0))


def main() -> int:
    """Serve the supervisor: the argument is the file descriptor of a pipe to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
    pipe = Connection(int(sys.argv[1]))
    interpreter_class()
    os.nice(_NICENESS)
    limit_memory()
    try:
        pipe.send_bytes(encode(CheckerReady()))
        while True:
            pipe.send_bytes(encode(_answer(decode(pipe.recv_bytes(), CheckPolicy))))
    except (EOFError, OSError):
        return 0  # nobody is at the other end any more


if __name__ == "__main__":
    sys.exit(main())
