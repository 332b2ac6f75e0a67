"""Starts one of our programs, and has it killed at a step of its own: nothing in the program knows of it.

    python killed_at.py cloud_learner.fleet_link:FleetLink.send_acks before ARMED cloud_learner --broker ...

Once the file ARMED exists, the next call of the named function is the last thing that the process does: it gets its
SIGKILL before the function has begun, or after it has ended.
"""

import functools
import importlib
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wrap(step: str, moment: str, armed: Path) -> None:
    """Replace a function, `module:name` or `module:Class.name`, by one that ends the process."""
    module, _, path = step.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    setattr(owner, name, killing(getattr(owner, name), moment, armed))


def killing(function: Callable[..., Any], moment: str, armed: Path) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        if moment == "before" and armed.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **keywords)
        if moment == "after" and armed.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


if __name__ == "__main__":
    step, moment, armed, program, *flags = sys.argv[1:]
    if moment not in {"before", "after"}:
        raise SystemExit(f"expected before or after, got {moment!r}")
    sys.path[0] = str(Path(__file__).parents[2])  # as with `python -m` from the root: programs, and no tests
    wrap(step, moment, Path(armed))
    sys.argv = [program, *flags]
    runpy.run_module(program, run_name="__main__", alter_sys=True)
