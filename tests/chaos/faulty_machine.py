"""A machine whose disk fills up, fails or loses power, and whose wall clock is wrong; for real, unchanged programs.

`faulty_machine.c` is put between a program and its C library (LD_PRELOAD), so that Python, SQLite and torch all meet
it. Its faults begin and end in mid-run. What is not shown so: how a real file system orders what nobody has asked it to
order; `power_cut.py` says what is assumed of it instead.
"""

import errno
import mmap
import os
import shlex
import shutil
import stat
import struct
import subprocess
import sys
import uuid
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

import pytest

DISK_FULL: Final = errno.ENOSPC
READ_ONLY: Final = errno.EROFS
FAILING: Final = errno.EIO
DAY_S: Final = 86_400.0

_SOURCE: Final = Path(__file__).with_name("faulty_machine.c")
_SLOTS: Final = ("error", "changes_left", "changes", "refused", "clock_shift_ns")
"""The order of faulty_machine.c."""
_NUMBER: Final = struct.Struct("=q")


class FaultyMachine:
    """What programs that are started with `python` live on.

    Args:
        place: A new folder for what the machine itself needs.
        folder: The disk: only changes under this folder are refused, or written down.

    Attributes:
        python: A Python interpreter on this machine: to be given where a program is started.
    """

    def __init__(self, place: Path, folder: Path) -> None:
        place.mkdir(parents=True)
        self.folder = folder.resolve()
        control, self._journal, self._boot_id = place / "control", place / "journal", place / "boot_id"
        control.write_bytes(bytes(mmap.PAGESIZE))
        self._journal.touch()
        self.reboot()
        with control.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.python = place / "python"
        told = {
            "LD_PRELOAD": library(),
            "FAULTY_CONTROL": control.resolve(),
            "FAULTY_JOURNAL": self._journal.resolve(),
            "FAULTY_FOLDER": self.folder,
            "FAULTY_BOOT_ID": self._boot_id.resolve(),
        }
        words = [f"{name}={shlex.quote(str(value))}" for name, value in told.items()]
        self.python.write_text(f'#!/bin/sh\n{" ".join(words)} exec {shlex.quote(sys.executable)} "$@"\n')
        self.python.chmod(stat.S_IRWXU)

    def refuse(self, error: int, *, after: int = 0) -> None:
        """From now on, or after so many more changes, refuse them with an errno.

        A full disk refuses only data, as a real one does; every other error refuses opening, renaming, deleting too.
        """
        self._set("changes_left", after)
        self._set("error", error)

    def recover(self) -> None:
        """Refuse nothing any more."""
        self._set("error", 0)

    @property
    def refused(self) -> int:
        """Changes that were refused since the start."""
        return self._get("refused")

    @property
    def changes(self) -> int:
        """Changes that were tried since the start."""
        return self._get("changes")

    def set_clock(self, shift_s: float) -> None:
        """Have the wall clock wrong by so much: a jump for what runs already. The monotonic clock goes on."""
        self._set("clock_shift_ns", int(shift_s * 1e9))

    def reboot(self) -> None:
        """What starts from now on runs on another boot of the kernel, and compares no monotonic times with the last."""
        self._boot_id.write_text(f"{uuid.uuid4()}\n", encoding="ascii")

    def journal(self) -> bytes:
        """All changes of the disk so far, for `power_cut.Journal`."""
        return self._journal.read_bytes()

    def _get(self, name: str) -> int:
        return _NUMBER.unpack_from(self._control, _NUMBER.size * _SLOTS.index(name))[0]

    def _set(self, name: str, value: int) -> None:
        _NUMBER.pack_into(self._control, _NUMBER.size * _SLOTS.index(name), value)


@cache
def library() -> Path:
    """The compiled faults; without a compiler the scenario skips here and fails in CI."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        sentence = "a C compiler is needed to preload faults into a program: `apt install gcc libc6-dev`"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(sentence)
    made = Path(mkdtemp(prefix="edgerl-faults-")) / "faulty_machine.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", made, _SOURCE, "-ldl"], check=True)
    return made
