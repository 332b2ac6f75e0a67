"""The thermostat over a simulated room and over the files of a board; a test replaces nothing but the world."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgerl_examples.thermostat.environment import OFF, ON, Thermostat
from edgerl_examples.thermostat.hardware import SensorAndRelay, SensorFailed
from edgerl_examples.thermostat.simulated_room import SimulatedRoom
from gpiozero import Device
from gpiozero.pins.mock import MockFactory

GOOD = "4b 01 4b 46 7f ff 0c 10 d8 : crc=d8 YES\n4b 01 4b 46 7f ff 0c 10 d8 t={}\n"


class Notebook:
    """A room that notes when its heater is switched; its temperature never changes."""

    def __init__(self) -> None:
        self.switched: list[bool] = []

    def read_temperature_c(self) -> float:
        return 20.0

    def switch_heater(self, *, on: bool) -> None:
        self.switched.append(on)

    def close(self) -> None:
        self.switched.append(False)


def test_a_simple_controller_keeps_the_room_at_its_set_point():
    environment = Thermostat(episode_steps=600)
    for seed in range(5):
        observation, _ = environment.reset(seed=seed)
        errors: list[float] = []
        for _ in range(600):
            observation, *_ = environment.step(ON if observation[0] > 0 else OFF)
            errors.append(abs(float(observation[0])) * 10)
        assert max(errors[-100:]) < 1.0


def test_the_relay_is_protected_from_quick_switches():
    room = Notebook()
    environment = Thermostat(room, hold_steps=2)
    environment.reset(seed=0)
    held = [float(environment.step(action)[0][3]) for action in [ON, ON, ON, ON, OFF, ON, ON, ON]]
    assert room.switched == [False, False, True, True, False, False, True, True]
    assert held == [0.5, 1.0, 0.5, 1.0, 0.5, 1.0, 0.5, 1.0]


def test_off_reaches_the_relay_at_once_for_it_is_the_safe_action():
    room = Notebook()
    environment = Thermostat(room, hold_steps=5)
    environment.reset(seed=0)
    for action in [*[OFF] * 5, ON, OFF]:
        environment.step(action)
    assert room.switched[-2:] == [True, False]


def test_a_copy_that_is_made_anew_does_not_switch_on_at_once():
    room = Notebook()
    for _ in range(3):
        environment = Thermostat(room, hold_steps=2)
        environment.reset(seed=0)
        environment.step(ON)
        environment.step(ON)
    assert not any(room.switched)


def test_without_a_hold_every_switch_is_carried_out():
    room = Notebook()
    environment = Thermostat(room, hold_steps=0)
    environment.reset(seed=0)
    for action in [ON, OFF, ON]:
        environment.step(action)
    assert room.switched == [True, False, True]


def test_the_reward_is_comfort_energy_and_wear():
    environment = Thermostat(Notebook(), set_point_c=22.0, hold_steps=0)
    environment.reset(seed=0)
    assert environment.step(ON)[1] == pytest.approx(-2.0 - 0.05 - 0.2)
    assert environment.step(ON)[1] == pytest.approx(-2.0 - 0.05)
    assert environment.step(OFF)[1] == pytest.approx(-2.0 - 0.2)


def test_closing_switches_the_heater_off():
    room = Notebook()
    environment = Thermostat(room, hold_steps=0)
    environment.reset(seed=0)
    environment.step(ON)
    environment.close()
    assert room.switched == [True, False]


def test_a_simulated_room_follows_its_differential_equation():
    room = SimulatedRoom()
    room.begin(np.random.default_rng(0))
    room.switch_heater(on=True)
    exact, outside = room._temperature_c, room._outside_c
    for _ in range(100):
        for _ in range(3000):  # Euler in steps of 10 ms
            exact += 0.01 * (outside + 25 - exact) / 3600
        assert room.read_temperature_c() == pytest.approx(exact, abs=1 / 32 + 1e-3)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Path]:
    """A root folder with a DS18B20 at 21.312 degrees, and GPIO lines that are not there."""
    sensor = tmp_path / "sys/bus/w1/devices/28-000005e2fdc3"
    sensor.mkdir(parents=True)
    (sensor / "w1_slave").write_text(GOOD.format(21312), encoding="ascii")
    Device.pin_factory = MockFactory()
    yield tmp_path
    Device.pin_factory.reset()
    Device.pin_factory = None


def sensor_of(board: Path) -> Path:
    return next((board / "sys/bus/w1/devices").glob("28-*")) / "w1_slave"


def test_the_hardware_reads_the_boards_files_and_moves_its_line(board: Path):
    hardware = SensorAndRelay(relay_line=17, root=board)
    factory: Any = Device.pin_factory
    pin = factory.pin(17)
    assert hardware.read_temperature_c() == 21.312
    assert pin.state == 0
    hardware.switch_heater(on=True)
    assert pin.state == 1
    sensor_of(board).write_text(GOOD.format(-1062), encoding="ascii")
    assert hardware.read_temperature_c() == -1.062
    environment = Thermostat(hardware, hold_steps=0)
    environment.reset(seed=0)
    environment.step(ON)
    assert pin.state == 1
    environment.close()
    assert pin.state == 0


@pytest.mark.parametrize(
    "answer", [GOOD.format(20000).replace("YES", "NO"), GOOD.format(85000), "", "garbage", GOOD.format("x")]
)
def test_a_sensor_that_fails_says_so(board: Path, answer: str):
    hardware = SensorAndRelay(relay_line=17, root=board)
    sensor_of(board).write_text(answer, encoding="ascii")
    with pytest.raises(SensorFailed):
        hardware.read_temperature_c()
    hardware.close()


def test_a_sensor_that_is_gone_or_was_never_there_says_so(board: Path, tmp_path: Path):
    hardware = SensorAndRelay(relay_line=17, root=board)
    sensor_of(board).unlink()
    with pytest.raises(SensorFailed, match="gone"):
        hardware.read_temperature_c()
    hardware.close()
    with pytest.raises(SensorFailed, match="w1-gpio"):
        SensorAndRelay(relay_line=17, root=tmp_path / "elsewhere")


def test_a_relay_that_a_killed_worker_left_on_is_off_even_where_the_sensor_is_gone(board: Path, tmp_path: Path):
    factory: Any = Device.pin_factory
    pin = factory.pin(17)
    pin.function, pin.state = "output", True
    with pytest.raises(SensorFailed):
        SensorAndRelay(relay_line=17, root=tmp_path / "elsewhere")
    assert pin.state == 0
    SensorAndRelay(relay_line=17, root=board).close()  # the line was given back


def test_a_room_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'hardware' or 'simulated'"):
        Thermostat("cellar")
