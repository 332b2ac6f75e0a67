"""The thermostat as an environment. Read this first; `hardware.py` is the one file that touches the world.

The environment keeps no time: a run with `control_hz` steps it at a fixed rate, say once a second. What it needs of the
world is a `Room`, which a real board, a simulation and a test fill in.
"""

from typing import Any, Final, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from edgerl_examples.thermostat.hardware import SensorAndRelay
from edgerl_examples.thermostat.simulated_room import SimulatedRoom

OFF, ON = 0, 1
_TREND_STEPS: Final = 5
_ENERGY_COST: Final = 0.05
_SWITCH_COST: Final = 0.2
_SCALE_C: Final = 10.0
_COLDEST_C: Final = -55.0
_HOTTEST_C: Final = 125.0
"""Range of a DS18B20."""


class Room(Protocol):
    """What a thermostat has to do with: a temperature that it reads, and a heater that it switches."""

    def read_temperature_c(self) -> float:
        """The room's temperature in degrees Celsius; raises OSError when the sensor fails."""
        ...

    def switch_heater(self, *, on: bool) -> None:
        """Open or close the relay."""
        ...

    def close(self) -> None:
        """Let go of the hardware, with the heater off."""
        ...


class Thermostat(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Observes float32 `[error, trend, relay, held]`, acts off or on.

    error and trend are in units of 10 degrees (set point minus temperature; change over five steps), relay is 0 or 1,
    and held is the share of `hold_steps` for which the relay has been as it is. A relay wears with every switch and a
    compressor dies of quick ones, so on is not carried out before the last switch is `hold_steps` old, nor in the first
    `hold_steps` with real hardware. Off always is: a board applies its safe action once, and then may pause for long.
    The reward is minus the error in degrees, minus the cost of energy and of switching.

    Args:
        room: "hardware" for the board's sensor and relay, "simulated" for a room in memory, or a `Room`.
        set_point_c: Where the temperature should be.
        hold_steps: Steps after a switch in which the relay is not switched on.
        episode_steps: Steps after which an episode is truncated; the room goes on as it is.
        relay_line: GPIO line of the relay, where the room is hardware.
    """

    action_space = gymnasium.spaces.Discrete(2)

    def __init__(
        self,
        room: str | Room = "simulated",
        *,
        set_point_c: float = 21.0,
        hold_steps: int = 5,
        episode_steps: int = 200,
        relay_line: int = 17,
    ) -> None:
        self._room = _make_room(room, relay_line)
        self._set_point_c = set_point_c
        self._hold_steps = hold_steps
        self._episode_steps = episode_steps
        self._relay = OFF
        self._held = 0  # a copy may have failed a moment ago: nobody knows when the relay was last switched
        self._steps = 0
        self._temperatures: list[float] = []
        self.observation_space: gymnasium.Space[Any] = _observation_space(set_point_c)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin to look anew; a real room is not reset by that, a simulated one begins at a random temperature."""
        super().reset(seed=seed, options=options)
        if isinstance(self._room, SimulatedRoom):
            self._room.begin(self.np_random)
            self._relay, self._held = OFF, self._hold_steps
        self._steps = 0
        self._temperatures = [self._room.read_temperature_c()]
        return self._observe(), {}

    def step(self, action: int | np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Switch, if the relay may be switched, and read the sensor."""
        is_due = action == OFF or self._held >= self._hold_steps
        switches = is_due and int(action) != self._relay
        if switches:
            self._relay, self._held = int(action), 0
        self._room.switch_heater(on=self._relay == ON)
        self._held += 1
        self._steps += 1
        self._temperatures = [*self._temperatures[-_TREND_STEPS:], self._room.read_temperature_c()]
        error_c = abs(self._set_point_c - self._temperatures[-1])
        reward = -error_c - _ENERGY_COST * self._relay - _SWITCH_COST * switches
        return self._observe(), reward, False, self._steps >= self._episode_steps, {}

    def close(self) -> None:
        """The heater is off when nobody watches it."""
        self._room.close()

    def _observe(self) -> NDArray[np.float32]:
        newest = self._temperatures[-1]
        error, trend = (self._set_point_c - newest) / _SCALE_C, (newest - self._temperatures[0]) / _SCALE_C
        return np.array([error, trend, self._relay, min(1.0, self._held / max(1, self._hold_steps))], np.float32)


def _observation_space(set_point_c: float) -> gymnasium.Space[NDArray[np.float32]]:
    span_c = _HOTTEST_C - _COLDEST_C
    low = np.array([set_point_c - _HOTTEST_C, -span_c, OFF, 0], np.float32)
    high = np.array([set_point_c - _COLDEST_C, span_c, ON, 1], np.float32)
    scale = np.array([_SCALE_C, _SCALE_C, 1, 1], np.float32)
    return gymnasium.spaces.Box(low / scale, high / scale, dtype=np.float32)


def _make_room(room: str | Room, relay_line: int) -> Room:
    match room:
        case "hardware":
            return SensorAndRelay(relay_line=relay_line)
        case "simulated":
            return SimulatedRoom()
        case str():
            raise ValueError(f"room is {room!r}: expected 'hardware' or 'simulated'")
        case _:
            return room
