"""How the board itself is: processor, heat, power, memory, disk, radio. What a board cannot tell is None.

psutil does what it does well, where it is installed. Everything else is read from files below a root folder, so that a
folder with the files of a Raspberry Pi is a Raspberry Pi.
"""

import importlib
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

from fleet_protocol.messages import Health

_T = TypeVar("_T")

_MB: Final = 1e6
_CPU_OVER_S: Final = 0.1
"""The kernel counts in hundredths of a second: over less than this a share says little."""
_VCGENCMD_EVERY_S: Final = 10.0
_VCGENCMD_WAIT_S: Final = 1.0
_PLAUSIBLE_C: Final = (-40.0, 150.0)
_PLAUSIBLE_DBM: Final = (-200, 0)
_OF_THE_CPU: Final = ("cpu", "soc", "pkg")
"""Some boards have other zones too, which may show a constant."""
_POWER_EVENTS: Final = (
    ("under_voltage", "under-voltage: the power supply or its cable is too weak"),
    ("frequency_capped", "the processor's frequency is capped, because of power or heat"),
    ("throttled", "the processor is throttled, because of power or heat"),
    ("hot", "the processor is at its soft temperature limit: cool the board"),
)
_SINCE_BOOT: Final = 16
"""Raspberry Pi's firmware repeats its bits from here on, for what has happened since the board started."""


class BoardHealth:
    """Reads a board's sensors. One reading takes well under a millisecond, and never raises.

    Args:
        root: The folder that holds the board's `proc` and `sys`.
        disk: A folder on the disk that the agent writes to.
    """

    def __init__(self, *, root: Path = Path("/"), disk: Path = Path()) -> None:
        self._root = root
        self._disk = disk
        self._psutil: Any = _import_psutil()
        self._cpu = _CpuShare(self._psutil)
        self._power = _PowerBits(root)

    def read(self, *, pids: Iterable[int] = (), outbox_bytes: int = 0) -> Health:
        """The board now.

        Args:
            pids: Processes of the agent.
            outbox_bytes: What the agent holds unacked.
        """
        return Health(
            pss_mb=pss_mb(pids),
            outbox_bytes=outbox_bytes,
            cpu_percent=self._cpu.read(),
            cpu_mhz=_cpu_mhz(self._root),
            temperature_c=_temperature_c(self._root),
            throttled=self._power.read(),
            memory_available_mb=_or_none(lambda: self._psutil.virtual_memory().available / _MB),
            disk_free_mb=_or_none(lambda: shutil.disk_usage(self._disk).free / _MB),
            wifi_dbm=_wifi_dbm(self._root),
        )


def hardware_name(root: Path = Path("/")) -> str:
    """A board's model and its processor, as its kernel has them: boards of one name are alike."""
    model = _text(root / "proc/device-tree/model").strip("\0 \n")
    lines = _text(root / "proc/cpuinfo").splitlines()
    processor = next((line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name")), "")
    return ", ".join(filter(None, (model, processor, platform.machine())))[:200]


class PowerWatch:
    """Tells what is new in Raspberry Pi's bits: an event is told once, not at each reading that shows it."""

    def __init__(self) -> None:
        self._before = 0

    def news(self, throttled: int | None) -> list[tuple[str, str]]:
        """Events since the last call, as (name, sentence).

        A bit that was set and cleared between two calls is told too, the first time: it stays in the bits since boot.
        """
        if throttled is None:
            return []
        before, self._before = self._before, throttled
        fresh = throttled & ~before
        begun, missed = fresh, (fresh >> _SINCE_BOOT) & ~before
        return [
            (name, f"{sentence} ({'now' if begun >> bit & 1 else 'since the board started'})")
            for bit, (name, sentence) in enumerate(_POWER_EVENTS)
            if (begun | missed) >> bit & 1
        ]


def pss_mb(pids: Iterable[int]) -> float:
    """Proportional set size of processes, together, in MB (10^6 bytes); 0 where the kernel does not tell."""
    return sum(_pss_kb(pid) for pid in pids) * 1024 / _MB


class _CpuShare:
    """CPU use of all cores together since the reading before, in percent."""

    def __init__(self, psutil: Any) -> None:  # noqa: ANN401 - the module, or None
        self._psutil = psutil
        self._share: float | None = None
        self._read_at = time.monotonic()
        _or_none(lambda: psutil.cpu_percent(interval=None))  # psutil counts from the call before

    def read(self) -> float | None:
        if time.monotonic() - self._read_at >= _CPU_OVER_S:
            self._read_at = time.monotonic()
            self._share = _or_none(lambda: float(self._psutil.cpu_percent(interval=None)))
        return self._share


class _PowerBits:
    """Raspberry Pi's bits, from the kernel where it has them, else from the firmware's own command now and then."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._bits: int | None = None
        self._ask_at = 0.0

    def read(self) -> int | None:
        # The node is soc:firmware, or soc@ADDRESS:firmware where the device tree gives an address.
        for file in self._root.glob("sys/devices/platform/soc*/soc*:firmware/get_throttled"):
            return _number(file, base=16)
        if time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + _VCGENCMD_EVERY_S
            self._bits = _or_none(self._ask_firmware)
        return self._bits

    def _ask_firmware(self) -> int | None:
        command = self._root / "usr/bin/vcgencmd"
        if not command.is_file():
            return None
        said = subprocess.run(
            [command, "get_throttled"], capture_output=True, text=True, timeout=_VCGENCMD_WAIT_S, check=True
        ).stdout
        return int(said.strip().removeprefix("throttled="), 16)


def _cpu_mhz(root: Path) -> float | None:
    """The fastest core's frequency: as measured where we may read it, else as asked for."""
    rates: list[int] = []
    for policy in root.glob("sys/devices/system/cpu/cpufreq/policy*"):
        measured = _number(policy / "cpuinfo_cur_freq")
        rate = measured if measured is not None else _number(policy / "scaling_cur_freq")
        rates += [] if rate is None else [rate]
    return max(rates) / 1e3 if rates else None


def _temperature_c(root: Path) -> float | None:
    """The hottest zone of the processor, or of all where none is named after it."""
    zones: list[tuple[bool, float]] = []
    for zone in root.glob("sys/class/thermal/thermal_zone*"):
        millidegrees = _number(zone / "temp")
        if millidegrees is not None and _PLAUSIBLE_C[0] < millidegrees / 1e3 < _PLAUSIBLE_C[1]:
            zones.append((any(word in _text(zone / "type").lower() for word in _OF_THE_CPU), millidegrees / 1e3))
    return max(zones)[1] if zones else None


def _wifi_dbm(root: Path) -> float | None:
    """The strongest link's signal. A driver that knows no dBm shows a positive number, which means nothing here."""
    levels: list[float] = []
    for line in _text(root / "proc/net/wireless").splitlines():
        _, colon, numbers = line.partition(":")
        level = _or_none(lambda numbers=numbers: float(numbers.split()[2])) if colon else None
        if level is not None and _PLAUSIBLE_DBM[0] < level < _PLAUSIBLE_DBM[1]:
            levels.append(level)
    return max(levels, default=None)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _number(file: Path, *, base: int = 10) -> int | None:
    try:
        return int(_text(file).strip(), base)
    except ValueError:
        return None


def _or_none(read: Callable[[], _T]) -> _T | None:
    """A sensor's value, or None: a sensor is somebody else's code or hardware, and may raise anything."""
    try:
        return read()
    except Exception:  # noqa: BLE001
        return None


def _import_psutil() -> Any:  # noqa: ANN401 - the module, or None
    try:
        return importlib.import_module("psutil")
    except ImportError:
        return None  # there is no wheel for every board


def _pss_kb(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
