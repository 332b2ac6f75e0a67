"""A person reads words, and no bits: what a board is, does, and suffers from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fleet_factories import HeardFleet, make_birth, make_death, make_telemetry, sketch_of

from fleet_monitor.conditions import conditions, power_words, vitals
from fleet_monitor.description import age, describe, list_row
from fleet_monitor.history import History
from fleet_monitor.listing import list_boards
from fleet_protocol.messages import Health, Problem

WEAK = Health(pss_mb=81.5, cpu_percent=93.4, cpu_mhz=1400.0, temperature_c=61.2, throttled=0x50001, wifi_dbm=-56.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A board on a weak supply, one that was lost, and one that cannot act."""
    heard = HeardFleet()
    heard.hear(make_birth())
    heard.hear(make_telemetry(health=WEAK, sketches={"step_us": sketch_of([9.0] * 50)}))
    heard.hear(make_birth("b2"), board_id="b2")
    heard.hear(make_telemetry("b2", health=WEAK), board_id="b2")
    heard.hear(make_death("b2"), board_id="b2")
    heard.hear(make_birth("b3", problem=Problem(code=8, sentence="no such [bold]task[/bold]")), board_id="b3")
    with History(tmp_path / "fleet.db") as history:
        history.write(heard.fleet.view().boards, heard.fleet.intervals())
    return tmp_path / "fleet.db"


@pytest.mark.parametrize(
    ("throttled", "words"),
    [
        (0, []),
        (0x1, ["under-voltage now"]),
        (0x50005, ["under-voltage now", "throttled now"]),
        (0x50000, ["under-voltage earlier, since it started", "throttled earlier, since it started"]),
        (0xA0008, ["at its temperature limit now", "frequency capped earlier, since it started"]),
        (0xFFF00000, []),
    ],
)
def test_bits_are_words(throttled: int, words: list[str]):
    assert power_words(throttled) == words


@pytest.mark.parametrize(
    ("health", "words"),
    [
        (Health(), []),
        (Health(temperature_c=79.9, memory_available_mb=100.0, disk_free_mb=200.0, wifi_dbm=-80.0, throttled=0), []),
        (Health(temperature_c=80.0), ["hot: 80 C"]),
        (Health(memory_available_mb=99.0), ["little memory: 99 MB available"]),
        (Health(disk_free_mb=0.0), ["disk nearly full: 0 MB free"]),
        (Health(wifi_dbm=-81.0), ["weak Wi-Fi: -81 dBm"]),
    ],
)
def test_what_is_wrong_with_a_board_is_told(health: Health, words: list[str]):
    assert conditions(health) == words


def test_what_a_board_cannot_tell_is_left_out():
    assert vitals(Health()) == ""
    assert vitals(WEAK) == "CPU 93 %, 1400 MHz, 61 C, Wi-Fi -56 dBm"


@pytest.mark.parametrize(
    ("seconds", "words"), [(-0.1, "0 s"), (119.0, "119 s"), (120.0, "2 min"), (7200.0, "2 h"), (200_000.0, "2 d")]
)
def test_ages_are_said_as_people_say_them(seconds: float, words: str):
    assert age(seconds) == words


def test_boards_are_described_in_sentences(file: Path):
    online, lost, idle = (list(describe(board)) for board in list_boards(file))
    assert online[0].startswith("b1 is online; last heard ")
    assert online[-1] == "Its health: under-voltage now; throttled earlier, since it started."
    assert lost[0].startswith("b2 is lost")
    assert lost[-1].startswith("Its health: when last heard, under-voltage now")
    assert "a second now" not in lost[1]
    assert idle[1] == "It does not act: no such [bold]task[/bold]"


def test_a_line_of_the_list_has_the_problem_and_the_health(file: Path):
    online, _, idle = map(list_row, list_boards(file))
    assert online["what is wrong"] == "under-voltage now; throttled earlier, since it started"
    assert idle["what is wrong"] == "no such [bold]task[/bold]"
    assert (online["CPU %"], online["C"], idle["C"]) == (93, 61, None)


def edgerl(*arguments: str) -> str:
    command = [sys.executable, "-c", "from edgerl.cli import main; main()", *arguments]
    cwd = Path(__file__).parents[3]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd).stdout


def test_the_command_lists_boards_unfolded_into_a_pipe(file: Path):
    said = edgerl("fleet", "list", "--db", str(file))
    assert "under-voltage now; throttled earlier, since it started" in said
    assert "no such [bold]task[/bold]" in said
    assert "\x1b" not in said


def test_the_command_shows_a_board_in_words_and_tables(file: Path):
    said = edgerl("fleet", "show", "b1", "--db", str(file))
    assert "b1 is online" in said
    assert "step_us" in said
    assert said.count("under-voltage now") == 2


def test_json_has_numbers_and_words(file: Path):
    boards = json.loads(edgerl("fleet", "list", "--db", str(file), "--format", "json"))
    assert (boards[0]["throttled"], boards[0]["conditions"][0]) == (0x50001, "under-voltage now")
    detail = json.loads(edgerl("fleet", "show", "b1", "--db", str(file), "--format", "json"))
    assert set(detail) == {"board", "latencies", "health"}
    assert detail["health"][0]["temperature_c"] == 61.2
