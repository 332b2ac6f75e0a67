"""F27: an outbox that was damaged on the disk: skipped, counted, never a reason not to start; the rest is delivered.

Means: a real board fills its outbox while its learner is away, and is ended or killed. Copies of its folder are damaged
as cards damage them, and on each a real board starts beside the real learner, which must get all that could be read.
Other tests damage single records (tests/unit/edge_actor/test_outbox_on_disk.py). Not shown: a card whose reads fail.
"""

import random
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "integration"))
from fleet_processes import board, learner, read_report

from edgerl.broker import RunningBroker
from fleet_monitor.collector import Collector
from fleet_protocol.messages import Telemetry

CLOCKED = (
    *("--control-hz", "100", "--unroll-length", "8", "--max-age-s", "6000", "--max-policy-lag", "100000"),
    *("--checkpoint-every-s", "0.5"),
)
KEEPING = ("--spill-after-s", "0.5", "--keep-policy-every-s", "0.5")
PAGE = 4096


@dataclass(frozen=True)
class Spoiled:
    """A damage: what it does to a board's folder, and how it shows.

    Attributes:
        least: So many of the windows of the folder are recovered; negative: all but so many.
        corrupt: Records that are counted as corrupt, at least.
        is_set_aside: A damaged file is kept as `outbox.db.corrupt`.
    """

    damage: Callable[[Path], None]
    least: int
    corrupt: int
    is_set_aside: bool = False


def windows_in(folder: Path) -> int:
    """Windows that stand in an outbox, read from a copy."""
    copy = folder.with_name(f"{folder.name} copy")
    shutil.copytree(folder, copy)
    with closing(sqlite3.connect(copy / "outbox.db")) as connection:
        found = connection.execute("SELECT count(*) FROM window").fetchone()[0]
    shutil.rmtree(copy)
    return found


def flip(path: Path, at: int, count: int = 1) -> None:
    content = bytearray(path.read_bytes())
    for place in range(at, at + count):
        content[place] ^= 0xA5
    path.write_bytes(content)


def flip_a_body(folder: Path) -> None:
    """Change one byte in the middle of one window."""
    with closing(sqlite3.connect(folder / "outbox.db")) as connection:
        row, body = connection.execute("SELECT id, body FROM window ORDER BY id LIMIT 1 OFFSET 10").fetchone()
        assert row
    path = folder / "outbox.db"
    place = path.read_bytes().find(body[:200])
    assert place > 0
    flip(path, place + 100)


def flip_a_page(folder: Path) -> None:
    """Change all bytes of a page in the middle of the file."""
    path = folder / "outbox.db"
    flip(path, path.stat().st_size // PAGE // 2 * PAGE, PAGE)


def tear_the_log(folder: Path) -> None:
    log = folder / "outbox.db-wal"
    log.write_bytes(log.read_bytes()[: log.stat().st_size * 3 // 4 + 11])


def flip_in_the_log(folder: Path) -> None:
    log = folder / "outbox.db-wal"
    flip(log, log.stat().st_size * 3 // 4, 64)


def tear_the_file(folder: Path) -> None:
    path = folder / "outbox.db"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4 + 11])


def only_garbage(folder: Path) -> None:
    (folder / "outbox.db").write_bytes(random.Random(0).randbytes(100_000))


def garbage_everywhere(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(random.Random(0).randbytes(10_000))


ENDED = {
    "a byte of a window": Spoiled(flip_a_body, least=-1, corrupt=1),
    "a page": Spoiled(flip_a_page, least=10, corrupt=1, is_set_aside=True),
    "the end of the file": Spoiled(tear_the_file, least=10, corrupt=1, is_set_aside=True),
    "the whole file": Spoiled(only_garbage, least=0, corrupt=1, is_set_aside=True),
    "an empty file": Spoiled(lambda folder: (folder / "outbox.db").write_bytes(b"") and None, least=0, corrupt=0),
    "every file": Spoiled(garbage_everywhere, least=0, corrupt=1, is_set_aside=True),
}
KILLED = {
    "the end of the log": Spoiled(tear_the_log, least=10, corrupt=0),
    "some bytes of the log": Spoiled(flip_in_the_log, least=10, corrupt=0),
}


class Board:
    """What board b1 says of itself."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def telemetry(self) -> Telemetry | None:
        return next((board.telemetry for board in self._collector.snapshot().boards), None)

    def boot(self) -> str:
        return seen.boot_id if (seen := self.telemetry()) else ""

    def counted(self, name: str) -> int:
        return seen.counters.get(name, 0) if (seen := self.telemetry()) else 0


@pytest.fixture
def b1(mosquitto: RunningBroker, fleet_name: str) -> Iterator[Board]:
    with Collector(mosquitto.address, fleet=fleet_name, history_path=None) as collector:
        yield Board(collector)


@pytest.mark.parametrize("ending", ["ended", pytest.param("killed", marks=pytest.mark.thorough)])
def test_F27_what_can_be_read_is_delivered_and_the_rest_is_counted(
    ending: str, b1: Board, mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
):
    with board(tmp_path, mosquitto.address, fleet_name, "b1", *KEEPING) as acting:
        with learner(tmp_path, mosquitto.address, fleet_name, *CLOCKED) as learning:
            wait_until((tmp_path / "state/checkpoint.pt").exists, timeout_s=90, what="a checkpoint")
            wait_until((tmp_path / "boards/b1/policy.frame").exists, timeout_s=60, what="a policy on the disk")
            learning.kill()
        wait_until(lambda: b1.counted("windows_spilled") > 60, timeout_s=90, what="windows on the disk")
        if ending == "killed":
            acting.kill()
    count = windows_in(tmp_path / "boards/b1")
    with learner(tmp_path, mosquitto.address, fleet_name, *CLOCKED) as learning:
        for name, spoiled in (KILLED if ending == "killed" else ENDED).items():
            (case := tmp_path / name).mkdir()
            shutil.copytree(tmp_path / "boards/b1", case / "boards/b1")
            spoiled.damage(case / "boards/b1")
            before = b1.boot()
            with board(case, mosquitto.address, fleet_name, "b1", *KEEPING) as acting:
                wait_until(lambda before=before: b1.boot() != before, timeout_s=60, what=f"a start after {name}")
                wait_until(
                    lambda: b1.counted("recovered_acked") == b1.counted("outbox_recovered"),
                    timeout_s=90,
                    what=f"the acks of what was left of {name}",
                )
                least = spoiled.least if spoiled.least >= 0 else count + spoiled.least
                assert least <= b1.counted("outbox_recovered") <= count, name
                assert b1.counted("outbox_corrupt") >= spoiled.corrupt, name
                assert (case / "boards/b1/outbox.db.corrupt").exists() == spoiled.is_set_aside, name
                acked = sum(run.acked for run in seen.runs.values()) if (seen := b1.telemetry()) else 0
                wait_until(
                    lambda acked=acked: (
                        (seen := b1.telemetry()) is not None and sum(r.acked for r in seen.runs.values()) > acked + 5
                    ),
                    timeout_s=60,
                    what=f"acks of new windows after {name}",
                )
            assert "Traceback" not in acting.said(), name
        learning.process.terminate()
        learning.process.wait(60)
    assert "Traceback" not in learning.said()
    assert read_report(tmp_path)["trajectories"]["add_up"]
