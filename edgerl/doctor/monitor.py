"""Can this machine record a fleet? Its SQLite file, the disk under it, the broker."""

from contextlib import closing
from pathlib import Path
from typing import Final

from edgerl.doctor.checks import Finding, Probe, check_broker, check_folder, ok
from fleet_monitor.__main__ import MonitorSettings
from fleet_monitor.history import SCHEMA_VERSION, file_errors, open_database

_LITTLE_DISK_MB: Final = 500.0
_ADVICE: Final = "choose another file with --db"


def monitor_probes(settings: MonitorSettings) -> dict[str, Probe]:
    """The checks of a monitor, by id."""
    file = Path(settings.db)
    return {
        "database": lambda: check_database(file),
        "disk": lambda: check_folder(
            file.absolute().parent, name="the database's folder", little_mb=_LITTLE_DISK_MB, advice=_ADVICE
        ),
        "broker": lambda: check_broker(settings),
    }


def check_database(file: Path) -> Finding:
    """Is the file ours, and can it be written? It is neither made nor changed.

    Raises:
        ProgramError: It is another program's, of a newer schema, or cannot be written.
    """
    if not file.exists():
        return ok(f"{file} is not there yet: the monitor makes it")
    with closing(open_database(file, read_only=True)) as reader:
        (boards,) = reader.execute("SELECT count(*) FROM board").fetchone()
    with file_errors(file), closing(open_database(file, upgrade=False)) as database:
        database.execute("BEGIN IMMEDIATE")  # fails where the file cannot be written, and where it is locked for long
        database.execute("ROLLBACK")
        (version,) = database.execute("PRAGMA user_version").fetchone()
    older = "" if version == SCHEMA_VERSION else f", of schema {version}, which the monitor brings to {SCHEMA_VERSION}"
    return ok(f"{file} can be written, and knows {boards} boards{older}")
