"""The audit is append-only, numbered, and finds every row that was changed, removed or reordered behind its back."""

import json
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from fleet_protocol.audit import AuditLog, AuditUnwritable
from fleet_protocol.exit_codes import ExitCode, ProgramError

WITHOUT_TRIGGERS = "DROP TRIGGER no_change; DROP TRIGGER no_deletion; DROP TRIGGER no_replacement;"
APPEND = """
import sys
from pathlib import Path
from fleet_protocol.audit import AuditLog
for index in range(25):
    print(AuditLog(Path(sys.argv[1])).append_numbered("command", issuer="m", board="b1", at_least=1, by=sys.argv[2]))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    log = AuditLog(tmp_path / "state/audit.db")
    for index in range(1, 6):
        log.append("enrolled", name=f"b{index}", minutes=0.5, was_revoked=False, problem=None)
    return tmp_path / "state/audit.db"


def tamper(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(WITHOUT_TRIGGERS + sql)


def test_what_was_appended_is_there_in_order(path: Path):
    log = AuditLog(path)
    assert [json.loads(entry.details)["name"] for entry in log.entries()] == ["b1", "b2", "b3", "b4", "b5"]
    assert [entry.id for entry in log.entries()] == [1, 2, 3, 4, 5]
    assert log.verify() == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE entry SET kind = 'x' WHERE id = 2",
        "DELETE FROM entry WHERE id = 5",
        "DELETE FROM entry",
        "INSERT OR REPLACE INTO entry VALUES (2, 'a', 'b', '{}', 'c', 'd')",
        "REPLACE INTO entry SELECT * FROM entry WHERE id = 1",
    ],
)
def test_the_file_refuses_every_change(path: Path, sql: str):
    before = AuditLog(path).entries()
    with closing(sqlite3.connect(path)) as database, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        database.execute(sql)
    assert AuditLog(path).entries() == before


@pytest.mark.parametrize(
    ("sql", "fault"),
    [
        ("UPDATE entry SET kind = 'revoked' WHERE id = 3", "entry 3 was changed"),
        ("UPDATE entry SET at = '2001-01-01' WHERE id = 5", "entry 5 was changed"),
        ("UPDATE entry SET details = replace(details, 'b1', 'b9') WHERE id = 1", "entry 1 was changed"),
        ("DELETE FROM entry WHERE id = 1", "entries 1 to 1 are missing"),
        ("DELETE FROM entry WHERE id IN (2, 3)", "entries 2 to 3 are missing"),
        ("DELETE FROM entry WHERE id > 3", "entries 4 to 5 at the end are missing"),
        ("DELETE FROM entry", "entries 1 to 5 at the end are missing"),
        (
            (
                "UPDATE entry SET id = 9 WHERE id = 2; UPDATE entry SET id = 2 WHERE id = 3; UPDATE entry SET id = 3 "
                "WHERE id = 9"
            ),
            "entry 2 was changed",
        ),
    ],
)
def test_what_was_changed_behind_its_back_is_found(path: Path, sql: str, fault: str):
    tamper(path, sql)
    assert fault in AuditLog(path).verify()


def test_a_row_that_was_forged_with_its_hash_is_found_by_the_next(path: Path):
    entry = AuditLog(path).entries()[2]._replace(kind="revoked")
    tamper(path, f"UPDATE entry SET kind = 'revoked', hash = '{entry.true_hash()}' WHERE id = 3")  # noqa: S608 - a hash
    assert AuditLog(path).verify() == ["entry 4 does not follow the one before it: one of both was replaced"]


def test_a_log_that_was_made_anew_lacks_the_head_that_was_noted(path: Path):
    log = AuditLog(path)
    head = log.entries()[-1].hash
    log.append("revoked", name="b1")
    assert log.verify(head=head) == []
    path.unlink()
    log.append("enrolled", name="b1")
    assert log.verify() == []
    assert "was noted" in log.verify(head=head)[0]


def test_what_protects_the_file_comes_back_with_the_next_entry(path: Path):
    with closing(sqlite3.connect(path)) as database:
        database.executescript(WITHOUT_TRIGGERS)
    AuditLog(path).append("x")
    with closing(sqlite3.connect(path)) as database, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        database.execute("DELETE FROM entry")


def test_a_log_goes_on_after_rows_were_lost_and_still_tells(path: Path):
    tamper(path, "DELETE FROM entry WHERE id > 3")
    AuditLog(path).append("revoked", name="b1")
    assert AuditLog(path).verify() == ["entries 4 to 5 are missing"]


def test_counters_rise_for_each_issuer_and_board_over_processes(tmp_path: Path):
    path = tmp_path / "audit.db"
    command = [sys.executable, "-c", APPEND, str(path)]
    running = [subprocess.Popen([*command, str(index)], stdout=subprocess.PIPE, text=True) for index in range(4)]
    said = [int(line) for process in running for line in process.communicate(timeout=120)[0].split()]
    assert sorted(said) == list(range(1, 101))
    log = AuditLog(path)
    assert log.append_numbered("command", issuer="m", board="b2", at_least=1) == 1
    assert log.append_numbered("command", issuer="m", board="b1", at_least=1) == 101
    assert log.append_numbered("command", issuer="m", board="b1", at_least=5000) == 5000
    assert log.append_numbered("command", issuer="m", board="b1", at_least=200) == 5001
    assert log.verify() == []


@pytest.mark.parametrize("content", [b"no database at all, but long enough to look like one" * 20, None])
def test_what_is_no_audit_is_left_alone(tmp_path: Path, content: bytes | None):
    path = tmp_path / "audit.db"
    if content is None:
        with closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE other (x)")
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    for call in (AuditLog(path).entries, lambda: AuditLog(path).append("x")):
        with pytest.raises(ProgramError) as refused:
            call()
        assert refused.value.exit_code == ExitCode.STATE_UNUSABLE
        assert not isinstance(refused.value, AuditUnwritable)
    assert path.read_bytes() == before


def test_a_place_that_takes_no_file_is_told_from_a_file_that_is_none_of_ours(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(AuditUnwritable):
        AuditLog(tmp_path / "file" / "audit.db").append("x")
