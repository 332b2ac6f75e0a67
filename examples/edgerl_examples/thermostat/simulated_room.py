"""A room in memory: heat leaks out, a heater brings it in, and both take time."""

from typing import Final

import numpy as np

_STEP_S: Final = 30.0
_TIME_CONSTANT_S: Final = 3600.0
_HEATER_C: Final = 25.0
"""How far above the outside the heater would bring the room in the end."""
_OUTSIDE_C: Final = (0.0, 8.0)
_START_C: Final = (16.0, 24.0)
_SENSOR_STEP_C: Final = 1 / 16
"""Resolution of a DS18B20."""


class SimulatedRoom:
    """Fills in `Room` with the first-order model `dT/dt = (outside + 25 heater - T) / 1 h`, solved exactly per step.

    Every reading is one step of 30 s later than the one before it.
    """

    def __init__(self) -> None:
        self._temperature_c = sum(_START_C) / 2
        self._outside_c = sum(_OUTSIDE_C) / 2
        self._heater = False

    def begin(self, rng: np.random.Generator) -> None:
        """Another day: a random temperature inside and outside."""
        self._temperature_c = float(rng.uniform(*_START_C))
        self._outside_c = float(rng.uniform(*_OUTSIDE_C))
        self._heater = False

    def read_temperature_c(self) -> float:
        """The temperature 30 s after the last reading, as a DS18B20 would round it."""
        goal = self._outside_c + _HEATER_C * self._heater
        self._temperature_c = goal + (self._temperature_c - goal) * float(np.exp(-_STEP_S / _TIME_CONSTANT_S))
        return round(self._temperature_c / _SENSOR_STEP_C) * _SENSOR_STEP_C

    def switch_heater(self, *, on: bool) -> None:
        """Heat, or do not."""
        self._heater = on

    def close(self) -> None:
        """The heater is off."""
        self._heater = False
