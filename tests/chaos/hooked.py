"""Code of a test inside of the agent's processes, by Python's own `sitecustomize`: the product holds none of it.

Supervisor, workers and checker are started by the agent itself, with its environment. So a test puts a folder on
PYTHONPATH whose `sitecustomize` wraps a named function in the processes of one module, once a file ARMED exists.
"""

from pathlib import Path
from typing import Final

import pytest

_SITECUSTOMIZE: Final = """
import functools, importlib, os, signal, sys, time
from pathlib import Path

PROGRAM, STEP, MOMENT, ARMED = {program!r}, {step!r}, {moment!r}, Path({armed!r})


def act(*arguments):
    {action}


def hooked(function):
    @functools.wraps(function)
    def wrapped(*arguments, **keywords):
        if MOMENT == "before" and ARMED.exists():
            act(*arguments)
        result = function(*arguments, **keywords)
        if MOMENT == "after" and ARMED.exists():
            act(*arguments)
        return result

    return wrapped


if "-m" in sys.orig_argv[:-1]:
    if sys.orig_argv[sys.orig_argv.index("-m") + 1] == PROGRAM:
        module, _, path = STEP.partition(":")
        *owners, name = path.split(".")
        owner = functools.reduce(getattr, owners, importlib.import_module(module))
        setattr(owner, name, hooked(getattr(owner, name)))
"""

KILL: Final = "os.kill(os.getpid(), signal.SIGKILL)"
KILL_THE_AGENT: Final = "os.kill(os.getppid(), signal.SIGKILL)"
SUPERVISOR: Final = "edge_actor"
WORKER: Final = "edge_actor.worker"
CHECKER: Final = "edge_actor.checker"


class Hook:
    """One function of one program, and what happens when it is entered or left.

    Args:
        folder: The test's own.
        monkeypatch: Changes PYTHONPATH, which all processes started later inherit.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder / "hook"
        self._folder.mkdir()
        self.armed = self._folder / "armed"
        monkeypatch.setenv("PYTHONPATH", str(self._folder), prepend=":")

    def set(self, program: str, step: str, moment: str, action: str = KILL) -> None:
        """Wrap a function in processes that start from now on; nothing happens before it is armed."""
        code = _SITECUSTOMIZE.format(
            program=program, step=step, moment=moment, armed=str(self.armed), action=action.replace("\n", "\n    ")
        )
        (self._folder / "sitecustomize.py").write_text(code, encoding="utf-8")

    def clear(self) -> None:
        """Leave processes that start from now on alone."""
        (self._folder / "sitecustomize.py").unlink(missing_ok=True)
        self.armed.unlink(missing_ok=True)
