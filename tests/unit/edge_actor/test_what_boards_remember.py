"""Quarantine, failed starts and kept policies: over restarts, over clocks that jump, and over damaged files."""

from pathlib import Path

import pytest
from test_policy_shelf import make_policy

from edge_actor import crash_watch, quarantine
from edge_actor.board_files import BoardFiles
from edge_actor.crash_watch import CrashWatch
from edge_actor.policy_shelf import PolicyShelf
from edge_actor.quarantine import Quarantine


class Counted(list[str]):
    def __call__(self, name: str, _sentence: str) -> None:
        self.append(name)


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def files(tmp_path: Path, counted: Counted) -> BoardFiles:
    return BoardFiles(tmp_path, count=counted)


def hash_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_what_failed_is_locked_away_after_a_restart_too(files: BoardFiles):
    first = Quarantine(files)
    first.add(hash_of(1))
    first.add(hash_of(2))
    assert hash_of(1) in Quarantine(files)  # written at once
    assert hash_of(2) not in Quarantine(files)  # not twice a minute
    first.keep(now=True)
    again = Quarantine(files)
    assert hash_of(1) in again
    assert hash_of(2) in again
    assert hash_of(3) not in again


def test_the_list_is_bounded_and_forgets_the_oldest(files: BoardFiles):
    full = Quarantine(files)
    for number in range(300):
        full.add(hash_of(number))
    full.keep(now=True)
    for held in (full, Quarantine(files)):
        assert [number for number in range(300) if hash_of(number) in held] == list(range(44, 300))


@pytest.mark.parametrize(("later_s", "locked"), [(0.0, True), (9.0, True), (11.0, False), (-1.0, False), (-1e9, False)])
def test_a_day_is_a_day_and_a_clock_that_went_back_frees(
    files: BoardFiles, monkeypatch: pytest.MonkeyPatch, later_s: float, locked: bool
):
    monkeypatch.setattr(quarantine, "utc_timestamp", lambda: 1e9)
    held = Quarantine(files)
    held.add(hash_of(1), for_s=10)
    monkeypatch.setattr(quarantine, "utc_timestamp", lambda: 1e9 + later_s)
    assert (hash_of(1) in held) == locked


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x81\xa7entries\x01"])
def test_a_damaged_file_is_counted_and_as_if_it_were_not_there(
    files: BoardFiles, tmp_path: Path, counted: Counted, content: bytes
):
    for name in ("quarantine", "starts"):
        (tmp_path / name).write_bytes(content)
    assert hash_of(1) not in Quarantine(files)
    assert CrashWatch(files).failed == 0
    assert counted == ["state_unreadable"] * 2


def test_starts_that_come_to_nothing_are_counted_and_lead_down_the_rungs(files: BoardFiles):
    assert [CrashWatch(files).rung for _ in range(8)] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_a_start_that_was_healthy_ended_on_purpose_or_grew_old_is_none(
    files: BoardFiles, monkeypatch: pytest.MonkeyPatch
):
    for _ in range(2):
        CrashWatch(files)
    CrashWatch(files).end()
    watch = CrashWatch(files)
    assert watch.failed == 2
    watch.note(is_healthy=False)
    assert CrashWatch(files).failed == 3
    watch.note(is_healthy=True)
    old = CrashWatch(files)
    assert old.failed == 0
    now = crash_watch.time.monotonic()
    monkeypatch.setattr(crash_watch.time, "monotonic", lambda: now + 601)
    old.note(is_healthy=False)
    assert CrashWatch(files).failed == 0


def test_a_last_good_policy_that_fails_leaves_the_one_before(files: BoardFiles):
    shelf = PolicyShelf(Quarantine(files))
    for version in (1, 2, 3):
        shelf.accept(make_policy(version))
        shelf.prove(make_policy(version))
    shelf.quarantine(make_policy(3))
    assert (shelf.newest, shelf.last_good) == (make_policy(2), make_policy(2))
    assert shelf.is_proved(make_policy(2))
    shelf.quarantine(make_policy(2))
    assert shelf.newest is None  # two are kept, not all


def test_a_policy_of_an_earlier_start_is_gone_back_to_and_watched_again(files: BoardFiles):
    shelf = PolicyShelf(Quarantine(files))
    for version in (2, 1):
        shelf.recall(make_policy(version))
    shelf.accept(make_policy(3))
    shelf.quarantine(make_policy(3))
    assert shelf.newest == make_policy(2)
    shelf.quarantine(make_policy(2))
    assert shelf.newest == make_policy(1)
    assert not shelf.is_proved(make_policy(1))
    assert not shelf.is_healthy
    shelf.prove(make_policy(1))
    assert shelf.is_healthy


def test_a_kept_policy_that_is_locked_away_is_not_recalled(files: BoardFiles):
    locked = Quarantine(files)
    locked.add(make_policy(2).header.sha256, for_s=60)
    shelf = PolicyShelf(locked)
    for version in (2, 1):
        shelf.recall(make_policy(version))
    assert shelf.newest == make_policy(1)
