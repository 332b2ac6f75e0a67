"""A board tells how it is from its own files; what it cannot tell is None, and no sensor can end the agent."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from policies import make_shelf

from edge_actor.board_health import BoardHealth, PowerWatch, pss_mb
from edge_actor.config import BoardSettings
from edge_actor.diary import Diary
from edge_actor.outbox import Outbox
from edge_actor.workforce import Workforce
from fleet_protocol.messages import LogLine

WIRELESS = """\
Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE
 face | tus | link level noise |  nwid  crypt   frag  retry   misc | beacon | 22
 wlan0: 0000   54.  -56.  -256        0      0      0      0      0        0
 wlan1: 0000   70.  -40.  -256        0      0      0      0      0        0
"""
PI_3_AND_4 = "sys/devices/platform/soc/soc:firmware/get_throttled"
PI_5 = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
ZONE = "sys/class/thermal/thermal_zone0"
CPU = "sys/devices/system/cpu/cpufreq/policy0"


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="ascii")
    return root


def make_pi(root: Path, *, power: str = PI_3_AND_4, bits: str = "0") -> Path:
    return put(
        root,
        {
            power: f"{bits}\n",
            f"{ZONE}/type": "cpu-thermal\n",
            f"{ZONE}/temp": "48312\n",
            f"{CPU}/scaling_cur_freq": "1500000\n",
            "proc/net/wireless": WIRELESS,
        },
    )


def put_vcgencmd(root: Path, script: str) -> None:
    command = put(root, {"usr/bin/vcgencmd": f"#!/bin/sh\n{script}\n"}) / "usr/bin/vcgencmd"
    command.chmod(0o755)


@pytest.mark.parametrize("power", [PI_3_AND_4, PI_5], ids=["Pi 3 and 4", "Pi 5"])
def test_a_pi_tells_heat_frequency_power_and_radio(tmp_path: Path, power: str):
    health = BoardHealth(root=make_pi(tmp_path, power=power, bits="50005"), disk=tmp_path).read(outbox_bytes=7)
    assert (health.temperature_c, health.cpu_mhz, health.throttled, health.wifi_dbm) == (48.312, 1500.0, 0x50005, -40.0)
    assert health.outbox_bytes == 7


def test_memory_and_disk_are_those_of_this_machine(tmp_path: Path):
    health = BoardHealth(disk=tmp_path).read()
    assert health.memory_available_mb == pytest.approx(psutil.virtual_memory().available / 1e6, rel=0.2)
    assert health.disk_free_mb == pytest.approx(shutil.disk_usage(tmp_path).free / 1e6, rel=0.05)


def test_cpu_use_is_told_once_there_is_a_span_to_tell_it_of(tmp_path: Path, wait_until):
    board = BoardHealth(root=tmp_path)
    assert board.read().cpu_percent is None
    wait_until(lambda: board.read().cpu_percent is not None, what="the first span")
    assert 0 <= (board.read().cpu_percent or 0) <= 100


def test_a_board_without_sensors_has_none(tmp_path: Path):
    health = BoardHealth(root=tmp_path, disk=tmp_path / "gone").read()
    assert (health.cpu_mhz, health.temperature_c, health.throttled) == (None, None, None)
    assert (health.disk_free_mb, health.wifi_dbm) == (None, None)


@pytest.mark.parametrize("junk", ["", "\n", "n/a", "0xzz", "-", "\x00\x00", "9" * 5000])
def test_sensors_that_speak_nonsense_are_none(tmp_path: Path, junk: str):
    make_pi(tmp_path)
    for name in (PI_3_AND_4, f"{ZONE}/temp", f"{CPU}/scaling_cur_freq"):
        (tmp_path / name).write_text(junk, encoding="ascii")
    (tmp_path / "proc/net/wireless").write_text(f"a: {junk}\n{junk}: 1 2\n:::", encoding="ascii")
    health = BoardHealth(root=tmp_path).read()
    assert health.temperature_c is None
    assert health.wifi_dbm is None
    assert health.cpu_mhz is None


def test_a_sensor_that_disappears_or_cannot_be_read_is_none_from_then_on(tmp_path: Path):
    board = BoardHealth(root=make_pi(tmp_path))
    assert board.read().temperature_c == 48.312
    (tmp_path / ZONE / "temp").unlink()
    (tmp_path / PI_3_AND_4).unlink()
    (tmp_path / PI_3_AND_4).mkdir()
    (tmp_path / "proc/net/wireless").unlink()
    health = board.read()
    assert (health.temperature_c, health.throttled, health.wifi_dbm) == (None, None, None)
    assert health.cpu_mhz == 1500.0


def test_a_sensor_that_raises_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until):
    board = BoardHealth(root=tmp_path)
    wait_until(lambda: board.read().cpu_percent is not None, what="a reading before")
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "nothing"))  # psutil then raises FileNotFoundError
    assert board.read().memory_available_mb is None
    wait_until(lambda: board.read().cpu_percent is None, what="the next span")


def test_without_psutil_the_rest_is_told(tmp_path: Path):
    make_pi(tmp_path)
    code = (
        "import sys; sys.modules['psutil'] = None; from pathlib import Path; "
        "from edge_actor.board_health import BoardHealth; health = BoardHealth(root=Path(sys.argv[1])).read(); "
        "print(health.cpu_percent, health.memory_available_mb, health.temperature_c)"
    )
    said = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["None", "None", "48.312"]


def test_the_processors_zone_is_the_one_that_is_told(tmp_path: Path):
    make_pi(tmp_path)
    constant = "sys/class/thermal/thermal_zone1"
    put(tmp_path, {f"{constant}/type": "PMIC-Die\n", f"{constant}/temp": "100000\n"})
    assert BoardHealth(root=tmp_path).read().temperature_c == 48.312
    (tmp_path / ZONE / "type").write_text("zone\n", encoding="ascii")
    assert BoardHealth(root=tmp_path).read().temperature_c == 100.0


def test_a_temperature_that_cannot_be_is_not_told(tmp_path: Path):
    make_pi(tmp_path)
    (tmp_path / ZONE / "temp").write_text("-274000\n", encoding="ascii")
    assert BoardHealth(root=tmp_path).read().temperature_c is None


def test_the_fastest_core_is_told_and_as_measured_where_that_can_be_read(tmp_path: Path):
    other = "sys/devices/system/cpu/cpufreq/policy4"
    put(make_pi(tmp_path), {f"{other}/scaling_cur_freq": "2400000\n"})
    assert BoardHealth(root=tmp_path).read().cpu_mhz == 2400.0
    put(tmp_path, {f"{other}/cpuinfo_cur_freq": "600000\n"})
    assert BoardHealth(root=tmp_path).read().cpu_mhz == 1500.0


def test_a_radio_that_knows_no_dbm_is_not_told(tmp_path: Path):
    put(tmp_path, {"proc/net/wireless": WIRELESS.replace("-56.", " 56.").replace("-40.", "-256.")})
    assert BoardHealth(root=tmp_path).read().wifi_dbm is None


def test_the_firmwares_command_is_asked_where_the_kernel_has_no_file(tmp_path: Path):
    put_vcgencmd(tmp_path, 'echo asked >> "$(dirname "$0")/asked"; test "$1" = get_throttled && echo throttled=0x50000')
    board = BoardHealth(root=tmp_path)
    assert [board.read().throttled for _ in range(3)] == [0x50000] * 3
    assert (tmp_path / "usr/bin/asked").read_text() == "asked\n", "it is a process, and not started at each reading"


def test_the_kernels_file_wins_over_the_firmwares_command(tmp_path: Path):
    make_pi(tmp_path, bits="0")
    put_vcgencmd(tmp_path, "echo throttled=0x50005")
    assert BoardHealth(root=tmp_path).read().throttled == 0


@pytest.mark.parametrize("script", ["exit 255", "echo VCHI initialization failed", "kill -9 $$", "exec sleep 60"])
def test_a_firmware_command_that_fails_is_none(tmp_path: Path, script: str):
    put_vcgencmd(tmp_path, script)
    assert BoardHealth(root=tmp_path).read().throttled is None


def test_memory_of_a_process_that_is_gone_is_zero():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert pss_mb([child.pid]) == 0


def names(watch: PowerWatch, bits: int | None) -> list[str]:
    return [name for name, _ in watch.news(bits)]


def test_an_event_is_told_once_however_long_it_lasts():
    watch = PowerWatch()
    assert names(watch, 0) == []
    assert names(watch, 0x50005) == ["under_voltage", "throttled"]
    assert names(watch, 0x50005) == []
    assert names(watch, 0x50000) == []
    assert names(watch, 0x50001) == ["under_voltage"], "it began again"


def test_an_event_between_two_readings_is_told_from_the_bits_since_boot():
    watch = PowerWatch()
    assert names(watch, 0) == []
    assert watch.news(0x20000)[0][1].endswith("(since the board started)")
    assert names(watch, 0x20000) == []


def test_a_reading_without_bits_changes_nothing():
    watch = PowerWatch()
    assert names(watch, 0x10001) == ["under_voltage"]
    assert names(watch, None) == []
    assert names(watch, 0x10001) == []


def test_a_bit_since_boot_that_comes_after_its_bit_of_now_is_the_same_event():
    watch = PowerWatch()
    assert names(watch, 0x1) == ["under_voltage"]
    assert names(watch, 0x10001) == []


def test_telemetry_carries_the_board_and_a_weak_supply_is_one_warning(tmp_path: Path):
    said: list[LogLine] = []
    make_pi(tmp_path)
    diary = Diary("b1", "boot", period_s=1.0, send_log=said.append, health=BoardHealth(root=tmp_path))
    shelf = make_shelf()
    workforce = Workforce(BoardSettings(), shelf=shelf, take_window=lambda _worker, _window: None, warn=diary.warn)
    outbox = Outbox(max_bytes=1000, clock=lambda: 0.0, rng=random.Random(0))

    def report():
        return diary.telemetry(
            run_id="", policy_group="", shelf=shelf, outbox=outbox, workforce=workforce, pids=workforce.pids()
        )

    assert report().health.temperature_c == 48.312
    assert (said, report().counters) == ([], {})
    (tmp_path / PI_3_AND_4).write_text("50005\n", encoding="ascii")
    reports = [report() for _ in range(5)]
    assert [r.health.throttled for r in reports] == [0x50005] * 5
    assert reports[0].counters == reports[-1].counters == {"board_under_voltage": 1, "board_throttled": 1}
    assert [line.level for line in said] == ["warning", "warning"]
    assert "power supply" in said[0].text
