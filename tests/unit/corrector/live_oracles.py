"""Other libraries' V-trace, run as a program: cases as JSON on stdin, answers as JSON on stdout.

A program of its own, because jax starts threads and complains about every later fork, and both libraries
warn while they are imported. Exits with `NOT_INSTALLED` where the library cannot be imported.
"""

import json
import sys
from collections.abc import Callable
from importlib import import_module

NOT_INSTALLED = 3

Case = dict[str, list | float]


def rlax_vtrace(case: Case) -> Case:
    """Return `vs` and `pg_advantages` of one sequence without truncations, each `[T]`."""
    jnp, rlax = import_module("jax.numpy"), import_module("rlax")
    values = jnp.array([*case["values"], case["bootstrap_value"]])
    returns = rlax.vtrace_td_error_and_advantage(
        values[:-1],
        values[1:],
        jnp.array(case["rewards"]),
        jnp.array(case["discounts"]),
        jnp.exp(jnp.array(case["log_rhos"])),
        case["lambda_"],
        case["clip_rho_threshold"],
        case["clip_pg_rho_threshold"],
    )
    return {"vs": (returns.errors + values[:-1]).tolist(), "pg_advantages": returns.pg_advantage.tolist()}


def torchrl_vtrace(case: Case) -> Case:
    """Return `vs` and `pg_advantages` of one sequence of several episodes, each `[T]`."""
    functional, torch = import_module("torchrl.objectives.value.functional"), import_module("torch")

    def column(name: str):
        return torch.tensor(case[name]).reshape(1, -1, 1)

    terminated = column("discounts") == 0
    advantages, vs = functional.vtrace_advantage_estimate(
        case["gamma"],
        column("log_rhos"),
        torch.zeros_like(column("log_rhos")),
        column("values"),
        column("next_values"),
        column("rewards"),
        terminated | column("truncated"),
        terminated,
        rho_thresh=case["clip_rho_threshold"],
    )
    return {"vs": vs.flatten().tolist(), "pg_advantages": advantages.flatten().tolist()}


ORACLES: dict[str, Callable[[Case], Case]] = {"rlax": rlax_vtrace, "torchrl": torchrl_vtrace}


def main() -> int:
    """Answer all cases with the oracle named on the command line."""
    vtrace = ORACLES[sys.argv[1]]
    try:
        answers = [vtrace(case) for case in json.load(sys.stdin)]
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return NOT_INSTALLED
    json.dump(answers, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
