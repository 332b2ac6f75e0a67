"""What was written is read back; a file that is not the monitor's is refused with a sentence, and left alone."""

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from fleet_factories import HeardFleet, make_birth, make_death, make_telemetry, sketch_of

from fleet_monitor.conditions import conditions
from fleet_monitor.history import SCHEMA_VERSION, History
from fleet_monitor.listing import list_boards, show_board
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import Health, Problem


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new folder?" / "fleet#1.db"


def write(file: Path, heard: HeardFleet, *, times: int = 1, keep_hours: float = 48.0) -> None:
    with History(file, keep_hours=keep_hours) as history:
        for _ in range(times):
            history.write(heard.fleet.view().boards, heard.fleet.intervals())


def test_a_board_is_read_back_as_it_was(file: Path):
    heard = HeardFleet()
    heard.hear(make_birth(problem=Problem(code=8, sentence="no such environment")))
    heard.hear(make_telemetry(uptime_s=1.0, env_steps=100))
    heard.hear(make_telemetry(uptime_s=3.0, env_steps=500))
    write(file, heard)
    (board,) = list_boards(file)
    assert board.age_s is not None
    assert 0 <= board.age_s < 5
    assert msgspec.to_builtins(msgspec.structs.replace(board, age_s=0.0)) == {
        "board_id": "b1",
        "boot_id": "boot-1",
        "state": "online",
        "age_s": 0.0,
        "run_id": "run-1",
        "policy_version": 7,
        "env_steps": 500,
        "steps_per_s": 200.0,
        "produced": 10,
        "dropped": 2,
        "in_outbox": 2,
        "pss_mb": 81.5,
        "problem": "no such environment",
        "software": "edgerl 0.1",
        "runtime": "litert",
        "cpu_percent": None,
        "cpu_mhz": None,
        "temperature_c": None,
        "throttled": None,
        "memory_available_mb": None,
        "disk_free_mb": None,
        "wifi_dbm": None,
        "conditions": [],
    }


HOT = Health(
    pss_mb=81.5,
    cpu_percent=93.5,
    cpu_mhz=1400.0,
    temperature_c=82.5,
    throttled=0x50005,
    memory_available_mb=2900.0,
    disk_free_mb=120.0,
    wifi_dbm=-85.0,
)


def test_the_health_of_a_board_is_read_back_in_numbers_and_in_words(file: Path):
    heard = HeardFleet()
    heard.hear(make_telemetry(health=HOT))
    write(file, heard)
    (board,) = list_boards(file)
    assert board.health == HOT
    assert board.conditions == conditions(HOT)
    assert board.conditions[0] == "under-voltage now"


def test_health_is_remembered_newest_first_once_an_interval(file: Path):
    heard = HeardFleet()
    for temperature_c in (50.0, 60.0, 70.0):
        heard.hear(make_telemetry(health=Health(temperature_c=temperature_c, throttled=0)))
        write(file, heard, times=2)  # the second time nothing new was heard
    rows = show_board(file, "b1", intervals=2).health
    assert [row.temperature_c for row in rows] == [70.0, 60.0]
    assert [row.throttled for row in rows] == [0, 0]
    assert rows[0].cpu_mhz is None


def test_old_health_is_deleted(file: Path):
    heard = HeardFleet()
    heard.hear(make_telemetry(health=HOT))
    write(file, heard)
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE health SET at = at - 3600")
    write(file, heard, keep_hours=2.0)
    assert len(show_board(file, "b1").health) == 1
    write(file, heard, keep_hours=0.5)
    assert show_board(file, "b1").health == []


def make_file_of_schema_1(file: Path) -> None:
    """A file as the first EdgeRL wrote it."""
    file.parent.mkdir(parents=True)
    with closing(sqlite3.connect(file)) as database, database:
        database.executescript(
            """
            CREATE TABLE latency (
                at REAL NOT NULL, board_id TEXT NOT NULL, boot_id TEXT NOT NULL, measure TEXT NOT NULL,
                count INTEGER NOT NULL, p50 REAL NOT NULL, p95 REAL NOT NULL, p99 REAL NOT NULL, maximum REAL NOT NULL
            );
            CREATE TABLE board (
                board_id TEXT PRIMARY KEY, boot_id TEXT NOT NULL, seen_at REAL, state TEXT NOT NULL,
                problem TEXT NOT NULL, run_id TEXT NOT NULL, policy_version INTEGER NOT NULL,
                env_steps INTEGER NOT NULL, steps_per_s REAL NOT NULL, produced INTEGER NOT NULL,
                dropped INTEGER NOT NULL, in_outbox INTEGER NOT NULL, pss_mb REAL NOT NULL, software TEXT NOT NULL,
                runtime TEXT NOT NULL
            );
            INSERT INTO board VALUES ('old', 'boot', 1.0, 'offline', '', 'run', 3, 500, 0.0, 9, 1, 0, 80.0, '', '');
            PRAGMA application_id=0x45646752;
            PRAGMA user_version=1;
            """
        )


def test_a_file_of_the_first_schema_is_read_as_it_is(file: Path):
    make_file_of_schema_1(file)
    before = file.read_bytes()
    detail = show_board(file, "old")
    assert (detail.board.env_steps, detail.board.temperature_c, detail.health) == (500, None, [])
    assert file.read_bytes() == before


def test_a_file_of_the_first_schema_is_brought_up_by_the_writer(file: Path):
    make_file_of_schema_1(file)
    heard = HeardFleet()
    heard.hear(make_telemetry(health=HOT))
    write(file, heard)
    write(file, heard)
    assert [board.env_steps for board in list_boards(file)] == [100, 500]
    assert show_board(file, "b1").board.health == HOT
    assert show_board(file, "b1").health[0].throttled == 0x50005


def test_the_last_write_of_a_board_wins(file: Path):
    heard = HeardFleet()
    heard.hear(make_birth())
    write(file, heard)
    heard.hear(make_death())
    write(file, heard)
    assert [board.state for board in list_boards(file)] == ["lost"]


def test_a_board_that_was_never_heard_has_no_age(file: Path):
    heard = HeardFleet()
    heard.hear(make_death())
    write(file, heard)
    assert [board.age_s for board in list_boards(file)] == [None]


def test_an_online_board_in_an_old_file_reads_as_stale(file: Path):
    heard = HeardFleet()
    heard.hear(make_birth())
    write(file, heard)
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE board SET seen_at = seen_at - 3600")
    assert [board.state for board in list_boards(file)] == ["stale"]


def test_latencies_are_read_back_by_measure_newest_first(file: Path):
    heard = HeardFleet()
    for count in (1, 2, 3):
        sketches = {"step_us": sketch_of(range(100 * count)), "encode_us": sketch_of([7.0] * count)}
        heard.hear(make_telemetry(sketches=sketches))
        write(file, heard)
    latencies = show_board(file, "b1", intervals=2).latencies
    assert [(row.measure, row.count) for row in latencies] == [("encode_us", 1)] * 2 + [("step_us", 100)] * 2
    newest = latencies[2]
    assert newest.age_s < latencies[3].age_s
    assert [newest.p50, newest.p95, newest.p99, newest.maximum] == pytest.approx([249, 294, 298, 299], rel=0.011)


def test_a_measure_without_new_values_makes_no_row(file: Path):
    heard = HeardFleet()
    heard.hear(make_telemetry(sketches={"step_us": sketch_of([5.0])}))
    write(file, heard, times=3)
    heard.hear(make_telemetry(sketches={"step_us": sketch_of([5.0])}))
    write(file, heard)
    assert len(show_board(file, "b1").latencies) == 1


def test_old_latencies_are_deleted(file: Path):
    heard = HeardFleet()
    heard.hear(make_telemetry(sketches={"step_us": sketch_of([5.0])}))
    write(file, heard)
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE latency SET at = at - 3600")
    write(file, heard, keep_hours=2.0)
    assert len(show_board(file, "b1").latencies) == 1
    write(file, heard, keep_hours=0.5)
    assert show_board(file, "b1").latencies == []


def test_an_unknown_board_is_answered_with_the_nearest(file: Path):
    heard = HeardFleet()
    heard.hear(make_birth("kitchen-1"), board_id="kitchen-1")
    write(file, heard)
    with pytest.raises(ProgramError, match="did you mean 'kitchen-1'") as refusal:
        show_board(file, "kitchn-1")
    assert refusal.value.exit_code == ExitCode.USAGE


def test_a_missing_file_says_how_to_record_one(file: Path):
    with pytest.raises(ProgramError, match="edgerl monitor --db") as refusal:
        list_boards(file)
    assert refusal.value.exit_code == ExitCode.STATE_UNUSABLE
    assert not file.parent.exists()


def test_reading_while_the_monitor_writes(file: Path):
    heard = HeardFleet()
    heard.hear(make_birth())
    with History(file) as history:
        history.write(heard.fleet.view().boards, [])
        assert [board.board_id for board in list_boards(file)] == ["b1"]
        history.write(heard.fleet.view().boards, [])


def refused(file: Path) -> str:
    """What both writer and reader say of a file that they must not touch."""
    before = file.read_bytes()
    with pytest.raises(ProgramError) as of_writer:
        History(file)
    with pytest.raises(ProgramError) as of_reader:
        list_boards(file)
    assert of_writer.value.exit_code == of_reader.value.exit_code == ExitCode.STATE_UNUSABLE
    assert str(of_writer.value) == str(of_reader.value)
    assert file.read_bytes() == before
    return str(of_writer.value)


def test_a_file_of_a_newer_schema_is_refused(tmp_path: Path):
    file = tmp_path / "newer.db"
    write(file, HeardFleet())
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    assert "written by a newer EdgeRL" in refused(file)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path):
    file = tmp_path / "notes.txt"
    file.write_text("not a database, but somebody's notes\n" * 50, encoding="ascii")
    assert "choose another with --db" in refused(file)


def test_the_database_of_another_program_is_refused(tmp_path: Path):
    file = tmp_path / "other.db"
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE board (a, b)")
    assert "was not written by `edgerl monitor`" in refused(file)


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path):
    with pytest.raises(ProgramError) as refusal:
        History(tmp_path)
    assert refusal.value.exit_code == ExitCode.STATE_UNUSABLE


def test_a_file_that_can_no_longer_be_written_is_one_sentence(file: Path):
    with History(file) as history:
        with closing(sqlite3.connect(file)) as database, database:
            database.execute("DROP TABLE latency")
        with pytest.raises(ProgramError, match="no such table") as refusal:
            history.write([], [])
    assert refusal.value.exit_code == ExitCode.STATE_UNUSABLE
