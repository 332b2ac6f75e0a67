"""Time, read in the two ways that are allowed: stamps in UTC, durations on the monotonic clock."""

from datetime import UTC, datetime
from functools import cache
from pathlib import Path


def utc_timestamp() -> float:
    """Seconds since 1970 in UTC: a stamp to show, never to be subtracted from another machine's."""
    return datetime.now(UTC).timestamp()


def utc_milliseconds() -> int:
    """A number that rises from one start of a program to the next, as long as its clock does."""
    return int(utc_timestamp() * 1e3)


@cache
def kernel_boot_id() -> str:
    """Name of this boot of this kernel; two processes that read the same one share a monotonic clock.

    Empty where the system does not tell (then nothing is ever taken for the same machine).
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
