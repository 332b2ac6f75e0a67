"""What a check of `edgerl doctor` is, how one is run so that it never raises, and the checks that areas share."""

import resource
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fleet_protocol.address import BrokerSettings, broker_address
from fleet_protocol.exit_codes import EXPLANATIONS, ExitCode, ProgramError
from fleet_protocol.mqtt_probe import NoAnswer, probe_protocol
from fleet_protocol.tls import TlsRefused

Status = Literal["ok", "warning", "problem"]

_SPOKEN: Final = {"MQTTv5": "MQTT 5", "MQTTv311": "MQTT 3.1.1"}
_MB: Final = 1e6
_PROBE_BYTES: Final = 4096
_FILES: Final = 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        status: ok, warning (it works, but), or problem (it does not).
        found: What was found, as a sentence.
        advice: What to do; empty where all is well.
        exit_code: How the doctor ends because of it, if it is a problem.
    """

    status: Status
    found: str
    advice: str = ""
    exit_code: ExitCode = ExitCode.OK


@dataclass(frozen=True, slots=True)
class Check:
    """A finding, and what was checked."""

    area: str
    id: str
    finding: Finding

    def to_json(self) -> dict[str, str]:
        """The check as `--format json` prints it."""
        finding = self.finding
        named = {"id": self.id, "area": self.area}
        return named | {"status": finding.status, "found": finding.found, "advice": finding.advice}


Probe = Callable[[], Finding]


def ok(found: str) -> Finding:
    """All is well."""
    return Finding("ok", found)


def warning(found: str, advice: str) -> Finding:
    """It works, but a person should know."""
    return Finding("warning", found, advice)


def problem(found: str, advice: str, exit_code: ExitCode) -> Finding:
    """It does not work."""
    return Finding("problem", found, advice, exit_code)


def examine(area: str, probes: Mapping[str, Probe]) -> Iterator[Check]:
    """Run probes one by one; each yields its check at once, whatever happens in it."""
    for name, probe in probes.items():
        yield Check(area, name, guarded(probe))


def guarded(probe: Probe) -> Finding:
    """Run a probe; what it raises is what it found."""
    try:
        return probe()
    except ProgramError as error:
        return problem(str(error), EXPLANATIONS[error.exit_code], error.exit_code)
    except Exception as error:  # noqa: BLE001 - a doctor does not die of what it looks at
        return problem(
            f"the check itself failed: {type(error).__name__}: {error}", "please report this line", ExitCode.BUG
        )


def check_broker(settings: BrokerSettings) -> Finding:
    """Is there a broker at this address, and which MQTT does it speak?"""
    address = broker_address(settings)
    try:
        protocol = probe_protocol(address, client_id=f"doctor-{uuid.uuid4().hex[:8]}", give_up=threading.Event())
    except TlsRefused as error:
        advice = EXPLANATIONS[ExitCode.CERTIFICATE_REFUSED]
        return problem(f"broker {address}: {error}", advice, ExitCode.CERTIFICATE_REFUSED)
    except NoAnswer as error:
        return problem(
            f"no broker answers at {address}: {error}",
            "start one (`systemctl start mosquitto`, or `edgerl broker run`), or correct the address with --broker",
            ExitCode.NO_BROKER,
        )
    return ok(
        f"a broker answers at {address} and speaks {_SPOKEN.get(protocol.name, protocol.name)}"
        + (" over TLS" if address.tls else "")
    )


def check_folder(path: Path, *, name: str, little_mb: float, advice: str) -> Finding:
    """Can this folder be written, or be made and then written, and is there space?

    Args:
        path: The folder; it is not made.
        name: What it is for.
        little_mb: Free megabytes below which it is a warning; a tenth of them is a problem.
        advice: What to do where it cannot be used.
    """
    path = path.absolute()
    try:
        place = next(folder for folder in (path, *path.parents) if folder.exists())
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
    except OSError as error:
        return problem(f"{name} {path} cannot be written: {error.strerror}", advice, ExitCode.STATE_UNUSABLE)
    free_mb = shutil.disk_usage(place).free / _MB
    found = f"{name} {path} can be written; {free_mb:,.0f} MB free"
    if free_mb < little_mb / 10:
        return problem(found, f"make space on this disk, or {advice}", ExitCode.STATE_UNUSABLE)
    if free_mb < little_mb:
        return warning(found, "make space on this disk before it runs full")
    return ok(found)


def check_open_files() -> Finding:
    """Each connection and each worker takes open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft:,} files may be open at once"
    if soft >= _FILES or soft == resource.RLIM_INFINITY:
        return ok(found)
    return warning(
        found, f"raise it to {_FILES:,} or more (`ulimit -n`, LimitNOFILE= in a unit; the hard limit is {hard:,})"
    )
