"""A machine with next to nothing, for programs under test: little memory, few files, one core, a slow card.

Memory is limited by a control group (version 2, else 1) where this user may make one, else by RLIMIT_DATA, which
counts what is mapped instead of what is used. The slow card is a library in front of libc's (LD_PRELOAD) that makes
every flush of a file wait.
"""

import os
import resource
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

_CGROUPS: Final = Path("/sys/fs/cgroup")
_SLOW_FLUSH: Final = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>

static int late(const char *name, int file) {
    usleep(FLUSH_US);
    return ((int (*)(int))dlsym(RTLD_NEXT, name))(file);
}
int fsync(int file) { return late("fsync", file); }
int fdatasync(int file) { return late("fdatasync", file); }
"""


def slow_card(folder: Path, *, flush_s: float) -> Path:
    """Compile the library that makes flushes slow; without a compiler it skips here and fails in CI."""
    compiler = shutil.which("cc")
    if compiler is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("a C compiler is missing: apt install gcc")
    source, library = folder / "slow_flush.c", folder / "slow_flush.so"
    source.write_text(_SLOW_FLUSH, encoding="ascii")
    flags = ["-shared", "-fPIC", f"-DFLUSH_US={round(flush_s * 1e6)}"]
    subprocess.run([compiler, *flags, source, "-o", library, "-ldl"], check=True)
    return library


def narrow(pid: int, *, files: int) -> None:
    """Give a process that has just started one core and few files; its children have no more."""
    os.sched_setaffinity(pid, {min(os.sched_getaffinity(0))})
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (files, files))


@contextmanager
def memory_limit(pid: int, limit_bytes: int) -> Iterator[str]:
    """Limit the memory of a process that has just started and of its children; says by what."""
    group = _make_group(limit_bytes)
    if group is None:
        resource.prlimit(pid, resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
        yield "RLIMIT_DATA"
        return
    (group / "cgroup.procs").write_text(str(pid), encoding="ascii")
    try:
        yield f"cgroup {group.parent}"
    finally:
        for left in (group / "cgroup.procs").read_text(encoding="ascii").split():
            with suppress(OSError):
                (group.parent / "cgroup.procs").write_text(left, encoding="ascii")
        group.rmdir()


def _make_group(limit_bytes: int) -> Path | None:
    for parent, limit in ((_CGROUPS, "memory.max"), (_CGROUPS / "memory", "memory.limit_in_bytes")):
        group = parent / f"edgerl-test-{uuid.uuid4().hex[:8]}"
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / limit).exists():  # else it is a folder like any other, or its controller is not given to us
            (group / limit).write_text(str(limit_bytes), encoding="ascii")
            return group
        group.rmdir()
    return None
