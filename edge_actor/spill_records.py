"""Windows and accounts as rows of the spill file, each with a CRC: what was changed on the disk is not believed."""

import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from edge_actor.outbox_entry import NO_WORKER, OutboxEntry
from fleet_protocol.clock import kernel_boot_id, utc_timestamp
from fleet_protocol.codec import BadMessage, decode, encode
from fleet_protocol.commands import EarlierBoot

_CLOCK_WAS_SET_S: Final = 1_600_000_000.0
"""September 2020. What says that it is older was stamped by a clock that nobody had set: a board without a battery
starts in 1970."""


def window_record(entry: OutboxEntry) -> tuple[Any, ...]:
    """A window as it stands in the table, without its row."""
    age_s = time.monotonic() - entry.produced_at
    identity = (entry.boot_id, entry.seq, entry.run_id)
    fields = (*identity, kernel_boot_id(), float(entry.produced_at), utc_timestamp() - age_s)
    return (*fields, entry.body, _window_crc(*fields, entry.body))


def read_window(row: int, record: tuple[Any, ...]) -> OutboxEntry | None:
    """The window of a record; None when the record is not as it was written."""
    if record[-1] != _window_crc(*record[:-1]):
        return None
    boot_id, seq, run_id, kernel, monotonic_s, utc_s, body, _ = record
    return OutboxEntry(boot_id, seq, run_id, NO_WORKER, body, _produced_at(kernel, monotonic_s, utc_s), row=row)


def account_records(accounts: Mapping[tuple[str, str], EarlierBoot]) -> Iterator[tuple[Any, ...]]:
    """Accounts as they stand in the table."""
    for (boot_id, run_id), rest in accounts.items():
        account = encode(rest)
        yield boot_id, run_id, account, _account_crc(boot_id, run_id, account)


def read_account(record: tuple[Any, ...]) -> EarlierBoot | None:
    """The account of a record; None when the record is not as it was written."""
    *fields, crc = record
    if crc != _account_crc(*fields):
        return None
    try:
        return decode(fields[-1], EarlierBoot)
    except BadMessage:
        return None


def _window_crc(*fields: Any) -> int:  # noqa: ANN401 - a damaged record may hold anything
    *header, body = fields
    return zlib.crc32(body if isinstance(body, bytes) else b"", zlib.crc32(repr(header).encode()))


def _account_crc(boot_id: object, run_id: object, account: object) -> int:
    return zlib.crc32(repr((boot_id, run_id, account)).encode())


def _produced_at(kernel: str, monotonic_s: float, utc_s: float) -> float:
    """When a window was produced, on this boot's monotonic clock.

    After a reboot only the wall clock tells; one that was not set then, or has gone backwards since, makes the window
    new, never older.
    """
    if kernel and kernel == kernel_boot_id():
        return monotonic_s
    age_s = utc_timestamp() - utc_s if utc_s >= _CLOCK_WAS_SET_S else 0.0
    return time.monotonic() - max(0.0, age_s)
