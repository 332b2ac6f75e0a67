"""The board's own sensor and relay: a DS18B20 on the 1-wire bus, and a relay on a GPIO line.

The kernel speaks to the sensor (`dtoverlay=w1-gpio` on a Raspberry Pi) and shows it as a file. To read the file is to
measure, which takes a DS18B20 up to 0.75 s by its data sheet. gpiozero switches the relay.
"""

from pathlib import Path
from typing import Any, Final

_SENSORS: Final = "sys/bus/w1/devices"
_POWER_ON_MILLI_C: Final = 85_000
"""What a DS18B20 holds before its first conversion: a real room is never at 85.000 degrees."""


class SensorFailed(OSError):
    """No temperature came; the board makes the environment anew, and counts it."""


class SensorAndRelay:
    """Fills in `Room` with hardware.

    Args:
        relay_line: GPIO line that the relay hangs on.
        root: What `/` is; a test gives a folder with files like those of a board.

    Raises:
        SensorFailed: No sensor is on the bus.
    """

    def __init__(self, *, relay_line: int, root: Path = Path("/")) -> None:
        from gpiozero import OutputDevice  # noqa: PLC0415 - only a board with a relay has it

        # First of all off: a worker that was killed has left the relay as it was.
        self._relay: Any = OutputDevice(relay_line, initial_value=False)
        sensors = sorted((root / _SENSORS).glob("28-*"))
        if not sensors:
            self.close()
            raise SensorFailed(
                f"no DS18B20 below {root / _SENSORS}: check the wiring, and that dtoverlay=w1-gpio is in config.txt"
            )
        self._sensor = sensors[0]

    def read_temperature_c(self) -> float:
        """The sensor's last conversion.

        Raises:
            SensorFailed: The sensor is gone, its answer was garbled (CRC), or it has not measured yet.
        """
        try:
            crc, _, measured = (self._sensor / "w1_slave").read_text(encoding="ascii").partition("\n")
            milli_c = int(measured.rpartition("t=")[2])
        except (OSError, ValueError) as error:
            raise SensorFailed(f"{self._sensor.name} is gone or answers nonsense: {error}") from error
        if not crc.endswith("YES"):
            raise SensorFailed(f"{self._sensor.name}: the checksum of its answer is wrong; a long or loose wire?")
        if milli_c == _POWER_ON_MILLI_C:
            raise SensorFailed(f"{self._sensor.name} has not measured since it got power")
        return milli_c / 1000

    def switch_heater(self, *, on: bool) -> None:
        """Close or open the relay."""
        self._relay.value = on

    def close(self) -> None:
        """Open the relay, and give the line back."""
        self._relay.off()
        self._relay.close()
