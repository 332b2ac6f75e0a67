"""The bench: a process that measures one policy and ends. Nothing acts meanwhile, so that the figures are the policy's.

The file comes from whoever may command this board, and is read as carefully as one to act with: it is inspected before
anything loads it, and what it does to the runtime it does to this process.
"""

import hashlib
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import numpy as np

from edge_actor.bench_messages import Benched, BenchReady
from edge_actor.board_health import BoardHealth
from edge_actor.checker import ACTIVATION_BYTES, limit_memory, observations_for
from edge_actor.policy import Policy, interpreter_class
from edge_actor.policy_file import BadPolicyFile
from edge_actor.policy_inspection import PolicyInspection
from fleet_protocol.codec import decode, encode
from fleet_protocol.commands import Bench, BenchResult
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.messages import Problem

_QUANTILES: Final = (50, 95, 99, 99.9)
_CPU_S: Final = 150
_LONGEST: Final = 1000
"""Characters of a reason: it may name thousands of tensors, and an answer has its limits."""


def measure(bench: Bench) -> BenchResult:
    """Load a policy, run it, and say how long it takes.

    Raises:
        BadPolicyFile: It is none that a worker might have.
    """
    PolicyInspection(bench.model, copies=bench.copies, memory_bytes=ACTIVATION_BYTES)
    _, runtime = interpreter_class()
    taken = np.ones(1 + bench.warm_up + bench.steps, np.int64)  # ours, and not what the policy takes
    before_mb = _rss_mb()
    started = time.perf_counter_ns()
    policy = Policy(bench.model, copies=bench.copies)
    loaded = time.perf_counter_ns()
    seen = list(observations_for(policy))
    for step in range(len(taken)):
        policy.observe(seen[step % len(seen)])
        began = time.perf_counter_ns()
        policy.infer()
        taken[step] = time.perf_counter_ns() - began
    rss_mb = _rss_mb() - before_mb
    p50, p95, p99, p999 = (float(value) for value in np.percentile(taken[1 + bench.warm_up :] / 1e3, _QUANTILES))
    health = BoardHealth().read()
    return BenchResult(
        sha256=hashlib.sha256(bench.model).digest(),
        runtime=runtime,
        load_ms=(loaded - started) / 1e6,
        first_us=float(taken[0]) / 1e3,
        p50_us=p50,
        p95_us=p95,
        p99_us=p99,
        p999_us=p999,
        steps=bench.steps,
        rss_mb=rss_mb,
        temperature_c=health.temperature_c,
        throttled=health.throttled,
    )


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> int:
    """Serve the supervisor once: the argument is the file descriptor of a pipe to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
    pipe = Connection(int(sys.argv[1]))
    interpreter_class()
    limit_memory()
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))  # nobody else ends it where the agent was killed
    try:
        pipe.send_bytes(encode(BenchReady()))
        bench = decode(pipe.recv_bytes(), Bench)
        try:
            answer = Benched(result=measure(bench))
        except (BadPolicyFile, MemoryError) as error:
            why = str(error) or "it does not fit into memory"
            answer = Benched(
                problem=Problem(code=ExitCode.USAGE, sentence=f"the policy cannot be run here: {why[:_LONGEST]}")
            )
        pipe.send_bytes(encode(answer))
        pipe.recv_bytes()  # until the supervisor has read it
    except (EOFError, OSError):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
