"""The outbox over restarts, with real files: what was spilled comes back under its own boot and seq."""

import errno
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from edge_actor.outbox import Outbox
from edge_actor.outbox_keeper import FILE_NAME, OutboxKeeper

SPILL_AFTER_S = 10.0


class Clock:
    """Seconds that a test moves; they begin where the machine's monotonic clock is, as a board's do."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


class Board:
    """One boot of a board, as far as its outbox goes."""

    def __init__(self, folder: Path, boot_id: str, *, clock: Clock | None = None, max_bytes: int = 10**6) -> None:
        self.clock = clock or Clock()
        self.counters: Counter[str] = Counter()
        self.warnings: list[str] = []
        self.outbox = Outbox(max_bytes=max_bytes, clock=self.clock, rng=random.Random(0), boot_id=boot_id)
        self.keeper = OutboxKeeper(
            self.outbox,
            folder,
            spill_after_s=SPILL_AFTER_S,
            counters=self.counters,
            warn=self.warnings.append,
            clock=self.clock,
        )
        self.keeper.recover()

    def produce(self, count: int, run_id: str = "r", size: int = 100) -> None:
        for _ in range(count):
            self.outbox.add(os.urandom(size), run_id=run_id, worker=1, env_steps=1)

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.keeper.keep()

    def dies(self) -> None:
        """As SIGKILL would have it: nothing more is written, the lock is gone."""
        file = self.keeper._file
        assert file is not None
        shutil.copytree(file._path.parent, (copy := file._path.parent.with_name("as-it-was")))
        file.close()
        shutil.rmtree(file._path.parent)
        copy.rename(file._path.parent)


def bodies(board: Board) -> dict[tuple[str, int], bytes]:
    return {entry.key: entry.body for entry in board.outbox._entries.values()}


def test_nothing_is_written_while_acks_come(tmp_path: Path):
    board = Board(tmp_path / "b", "one")
    for seq in range(50):
        board.produce(1)
        board.pass_time(SPILL_AFTER_S - 1)
        board.outbox.ack([(seq, seq)])
        board.pass_time(1)
    board.keeper.close()
    assert list(tmp_path.iterdir()) == []


def test_what_waits_too_long_comes_back_after_a_kill_under_its_own_boot_and_seq(tmp_path: Path):
    first = Board(tmp_path / "b", "one")
    first.produce(5)
    first.outbox.ack([(1, 1)])
    first.pass_time(SPILL_AFTER_S)
    kept = bodies(first)
    first.produce(2)  # too young for the disk: the stated loss
    first.pass_time(SPILL_AFTER_S / 2)
    first.dies()

    second = Board(tmp_path / "b", "two", clock=first.clock)
    assert bodies(second) == kept
    assert second.outbox.recovered["outbox_recovered"] == 4
    second.produce(1)
    assert [(entry.boot_id, entry.seq) for entry in second.outbox.due()] == [
        *(("one", seq) for seq in (0, 2, 3, 4)),
        ("two", 0),
    ]
    assert second.outbox.oldest_seq_of("one") == 0
    assert [entry.seq for entry in second.outbox.ack([(0, 2)], boot_id="one")] == [0, 2]
    assert second.outbox.oldest_seq_of("one") == 3
    rest = second.outbox.at_rest("r")
    assert (rest.produced, rest.outbox) == ([(0, 0)], [(0, 0)])
    assert (rest.earlier["one"].produced, rest.earlier["one"].outbox) == ([(0, 4)], [(3, 4)])
    assert second.counters["outbox_corrupt"] == 0


def test_all_that_is_unacked_at_the_end_is_kept_over_several_boots(tmp_path: Path):
    for boot in ("one", "two", "three"):
        board = Board(tmp_path / "b", boot)
        board.produce(3)
        board.keeper.close()
    last = Board(tmp_path / "b", "four")
    assert list(bodies(last)) == [(boot, seq) for boot in ("one", "two", "three") for seq in range(3)]
    for boot in ("one", "two", "three"):
        last.outbox.ack([(0, 2)], boot_id=boot)
    last.keeper.keep()
    assert list((tmp_path / "b").iterdir()) == []  # nothing to keep, no file
    assert last.outbox.recovered == Counter(outbox_recovered=9, recovered_acked=9)


def test_once_the_old_ones_are_acked_the_file_goes_though_there_is_always_something_on_its_way(tmp_path: Path):
    first = Board(tmp_path / "b", "one")
    first.produce(3)
    first.keeper.close()
    second = Board(tmp_path / "b", "two", clock=first.clock)
    second.outbox.ack([(0, 2)], boot_id="one")
    for seq in range(20):
        second.produce(1)
        second.pass_time(SPILL_AFTER_S / 2)  # too young for the disk when the deletions go there
        assert list((tmp_path / "b").iterdir()) == []
        second.outbox.ack([(seq, seq)])
    assert second.counters["windows_spilled"] == 0


def test_a_deletion_that_a_kill_undoes_costs_a_repeat_and_no_window(tmp_path: Path):
    first = Board(tmp_path / "b", "one")
    first.produce(4)
    first.pass_time(SPILL_AFTER_S)
    first.outbox.ack([(0, 3)])
    first.pass_time(SPILL_AFTER_S / 2)  # deletions wait
    first.dies()
    second = Board(tmp_path / "b", "two", clock=first.clock)
    assert len(second.outbox) == 4


def test_windows_of_another_run_are_dropped_and_their_accounts_forgotten(tmp_path: Path):
    first = Board(tmp_path / "b", "one")
    first.produce(3, run_id="old")
    first.produce(2, run_id="new")
    first.keeper.close()
    second = Board(tmp_path / "b", "two")
    assert len(second.outbox.drop_stale(run_id="new", max_age_s=1000)) == 3
    assert second.outbox.recovered["recovered_dropped"] == 3
    assert second.outbox.at_rest("new").earlier["one"].outbox == [(3, 4)]
    second.keeper.close()
    third = Board(tmp_path / "b", "three")
    assert third.outbox.at_rest("old").earlier == {}
    assert list(bodies(third)) == [("one", 3), ("one", 4)]


def test_the_bound_and_the_drops_of_a_dead_boot_are_kept(tmp_path: Path):
    first = Board(tmp_path / "b", "one", max_bytes=400)
    first.produce(6)
    first.pass_time(SPILL_AFTER_S)
    first.dies()
    second = Board(tmp_path / "b", "two", clock=first.clock, max_bytes=400)
    second.produce(1)
    rest = second.outbox.at_rest("r").earlier["one"]
    assert (rest.produced, rest.outbox, rest.dropped) == ([(0, 5)], [(3, 5)], {"outbox_full": [(0, 2)]})
    assert second.outbox.bytes == 400


def test_age_goes_on_over_a_restart(tmp_path: Path):
    first = Board(tmp_path / "b", "one")
    first.produce(1)
    first.clock.now += 30
    first.produce(1)
    first.pass_time(SPILL_AFTER_S)
    first.dies()
    second = Board(tmp_path / "b", "two", clock=first.clock)
    second.clock.now += 25
    assert [entry.seq for entry in second.outbox.drop_stale(run_id="r", max_age_s=60)] == [0]


def test_a_second_agent_on_the_same_folder_is_refused(tmp_path: Path):
    first = Board(tmp_path / "b", "one")
    first.produce(1)
    first.pass_time(SPILL_AFTER_S)
    code = (
        "import sys; from pathlib import Path; from edge_actor.spill_file import SpillFile\n"
        f"SpillFile(Path({str(tmp_path / 'b' / FILE_NAME)!r})).load()"
    )
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another agent keeps its outbox" in second.stderr


# --- the disk does what disks do ------------------------------------------------------------------------------------


@pytest.fixture
def spilled(tmp_path: Path) -> Path:
    """The folder of a board that was ended with 200 windows, in one file without a log."""
    board = Board(tmp_path / "b", "one")
    board.produce(200, size=900)
    board.keeper.close()
    return tmp_path / "b"


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bytes_cost_what_they_hit_and_never_the_start(spilled: Path, seed: int):
    before = bodies(reader := Board(spilled, "reader"))
    reader.dies()
    file = spilled / FILE_NAME
    content = bytearray(file.read_bytes())
    rng = random.Random(seed)
    for _ in range(5):
        content[rng.randrange(4096, len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    board = Board(spilled, "two")
    after = bodies(board)
    assert after.items() <= before.items()  # nothing comes back changed
    assert len(after) >= 150
    if len(after) < len(before):
        assert board.counters["outbox_corrupt"] > 0
        rest = board.outbox.at_rest("r").earlier["one"]
        assert sum(last - first + 1 for first, last in rest.produced) in (len(after), 200)


def test_a_corrupt_record_is_dropped_by_name(spilled: Path):
    with sqlite3.connect(spilled / FILE_NAME) as connection:
        connection.execute("UPDATE window SET body = zeroblob(900) WHERE seq = 7")
    connection.close()
    board = Board(spilled, "two")
    assert board.counters["outbox_corrupt"] == 1
    assert board.outbox.at_rest("r").earlier["one"].dropped == {"corrupt": [(7, 7)]}
    assert len(board.outbox) == 199


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_none_is_set_aside_and_a_new_one_serves(tmp_path: Path, content: bytes):
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / FILE_NAME).write_bytes(content)
    first = Board(folder, "one")
    assert first.counters["outbox_corrupt"] == (1 if content else 0)
    first.produce(3)
    first.keeper.close()
    assert len(Board(folder, "two").outbox) == 3


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_log_that_is_torn_anywhere_leaves_whole_writes(tmp_path: Path, share: float):
    first = Board(tmp_path / "b", "one")
    for _ in range(5):
        first.produce(10, size=700)
        first.pass_time(SPILL_AFTER_S)
    first.dies()
    log = tmp_path / "b" / f"{FILE_NAME}-wal"
    os.truncate(log, int(log.stat().st_size * share))
    second = Board(tmp_path / "b", "two", clock=first.clock)
    assert len(second.outbox) % 10 == 0
    assert list(bodies(second)) == [("one", seq) for seq in range(len(second.outbox))]


def test_a_truncated_file_gives_what_is_left(spilled: Path):
    os.truncate(spilled / FILE_NAME, (spilled / FILE_NAME).stat().st_size // 2)
    board = Board(spilled, "two")
    assert board.counters["outbox_corrupt"] > 0
    board.produce(1)
    board.keeper.close()
    assert ("two", 0) in bodies(Board(spilled, "three"))


def test_a_full_disk_is_counted_and_the_outbox_goes_on_in_memory(tmp_path: Path):
    board = Board(tmp_path / "b", "one")
    board.produce(20, size=1000)
    board.pass_time(SPILL_AFTER_S)
    ours = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, limit[1]))
        board.produce(100, size=1000)
        board.pass_time(SPILL_AFTER_S)
        assert board.counters["spill_failed"] == 1
        board.pass_time(1)
        assert board.counters["spill_failed"] == 1  # not at every turn
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ours)
    assert len(board.outbox) == 120
    board.pass_time(SPILL_AFTER_S)  # there is room again
    board.dies()
    assert len(Board(tmp_path / "b", "two", clock=board.clock).outbox) == 120


def test_a_folder_that_cannot_be_made_is_counted(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    board = Board(tmp_path / "file" / "b", "one")
    board.produce(1)
    board.pass_time(SPILL_AFTER_S)
    board.keeper.close()
    assert board.counters["spill_failed"] == 2
    assert os.strerror(errno.ENOTDIR) in board.warnings[0]
    assert len(board.outbox) == 1
