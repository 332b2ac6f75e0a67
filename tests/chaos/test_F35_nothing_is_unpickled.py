"""F35: no pickle from a folder or the wire is ever loaded, and no code is imported that a board's owner did not allow.

Each payload would make a folder, the canary, wherever it were unpickled or imported; that it is armed is shown first.
"""

import sqlite3
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from fleet_processes import Program, board, learner, read_report

from edge_actor.outbox_entry import NO_WORKER, OutboxEntry
from edge_actor.spill_file import SpillFile
from edgerl.broker import RunningBroker
from fleet_monitor.collector import Collector
from fleet_protocol.codec import encode
from fleet_protocol.commands import EarlierBoot
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.messages import RunSpec, TrajectoryMessage
from fleet_protocol.mqtt import MqttConnection
from fleet_protocol.signing import seal_frame
from fleet_protocol.topics import FleetTopics

WaitUntil = Callable[..., None]


class Trap:
    """What would make a folder when it is unpickled, in three shapes."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary
        self.pickle = f"cos\nmkdir\n(V{canary}\ntR.".encode()

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.canary,)

    def is_sprung(self) -> bool:
        """Whether somebody has unpickled it."""
        return self.canary.exists()


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    """An armed trap, which must not have sprung by the end."""
    made = Trap(tmp_path / "canary")
    spring = "import sys, pickle; pickle.loads(sys.stdin.buffer.read())"
    subprocess.run([sys.executable, "-c", spring], input=made.pickle, check=True)
    assert made.is_sprung()
    made.canary.rmdir()
    yield made
    assert not made.is_sprung()


@pytest.fixture
def collector(mosquitto: RunningBroker, fleet_name: str) -> Iterator[Collector]:
    with Collector(mosquitto.address, fleet=fleet_name, history_path=None) as listening:
        listening.wait_connected(10)
        yield listening


def counted(collector: Collector, name: str) -> int:
    boards = [seen.telemetry for seen in collector.snapshot().boards if seen.telemetry]
    return sum(telemetry.counters.get(name, 0) for telemetry in boards)


def env_steps(collector: Collector) -> int:
    boards = [seen.telemetry for seen in collector.snapshot().boards if seen.telemetry]
    return sum(run.env_steps for telemetry in boards for run in telemetry.runs.values())


def by_torch(trap: Trap, path: Path) -> None:
    torch.save(trap, path)


def by_torch_within_a_checkpoint(trap: Trap, path: Path) -> None:
    torch.save({"run": b"", "algorithm": {"weights": torch.zeros(3), "more": [trap]}}, path)


def by_old_torch(trap: Trap, path: Path) -> None:
    torch.save(trap, path, _use_new_zipfile_serialization=False)


def as_it_is(trap: Trap, path: Path) -> None:
    path.write_bytes(trap.pickle)


def in_an_archive_of_numpy(trap: Trap, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, weights=np.array([trap], dtype=object), allow_pickle=True)


def in_a_torchscript_archive(trap: Trap, path: Path) -> None:
    torch.jit.script(torch.nn.Linear(1, 1)).save(path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("checkpoint/data.pkl", trap.pickle)


@pytest.mark.parametrize(
    "lay",
    [by_torch, by_torch_within_a_checkpoint, by_old_torch, as_it_is, in_an_archive_of_numpy, in_a_torchscript_archive],
)
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_F35_a_pickle_for_a_checkpoint_is_refused_with_a_sentence(
    lay: Callable[[Trap, Path], None], trap: Trap, mosquitto: RunningBroker, fleet_name: str, tmp_path: Path
):
    (tmp_path / "state").mkdir()
    lay(trap, tmp_path / "state/checkpoint.pt")
    with learner(tmp_path, mosquitto.address, fleet_name) as learning:
        assert learning.process.wait(60) == ExitCode.STATE_UNUSABLE, learning.said()
    assert "checkpoint.pt cannot be read" in learning.said()
    assert "move it away" in learning.said()
    assert "Traceback" not in learning.said()


@pytest.mark.everyday
def test_F35_pickles_in_a_boards_state_folder_are_counted_and_the_board_acts(
    trap: Trap, mosquitto: RunningBroker, fleet_name: str, collector: Collector, tmp_path: Path, wait_until: WaitUntil
):
    folder = tmp_path / "boards/b1"
    folder.mkdir(parents=True)
    for name in ("run.frame", "policy.frame", "floors", "outbox.db"):
        (folder / name).write_bytes(trap.pickle)
    with (
        board(tmp_path, mosquitto.address, fleet_name, "b1") as acting,
        learner(tmp_path, mosquitto.address, fleet_name),
    ):
        wait_until(lambda: env_steps(collector) > 2000, timeout_s=90, what="the first steps")
        wait_until(lambda: counted(collector, "state_unreadable") >= 2, what="the counter of run and policy")
        assert counted(collector, "outbox_corrupt") >= 1
    assert (folder / "outbox.db.corrupt").read_bytes() == trap.pickle
    assert "Traceback" not in acting.said()


def test_F35_a_pickle_in_the_outbox_on_disk_travels_as_bytes_and_is_refused_by_the_learner(
    trap: Trap, mosquitto: RunningBroker, fleet_name: str, collector: Collector, tmp_path: Path, wait_until: WaitUntil
):
    flags = ("--checkpoint-every-s", "0.5", "--max-age-s", "3600")
    with (
        learner(tmp_path, mosquitto.address, fleet_name, *flags),
        board(tmp_path, mosquitto.address, fleet_name, "b1") as first,
    ):
        wait_until(lambda: env_steps(collector) > 2000, timeout_s=90, what="the first steps")
        run_id = next(board.telemetry.run_id for board in collector.snapshot().boards if board.telemetry)
        wait_until((tmp_path / "boards/b1/run.frame").exists, what="the run on the board's disk")
        first.process.terminate()
        assert first.process.wait(20) == 0
        file = SpillFile(tmp_path / "boards/b1/outbox.db")
        file.load()
        window = OutboxEntry("evilboot", 0, run_id, NO_WORKER, trap.pickle, produced_at=time.monotonic())
        account = EarlierBoot(produced=[(0, 0)], outbox=[(0, 0)], dropped={})
        file.save([window], [], {("evilboot", run_id): account})
        file.close()
        with closing(sqlite3.connect(tmp_path / "boards/b1/outbox.db")) as database, database:
            record = ("other", run_id, trap.pickle)
            crc = zlib.crc32(repr(record).encode())  # the right one: it guards against accidents, not against people
            database.execute("INSERT INTO account VALUES (?, ?, ?, ?)", (*record, crc))
        with board(tmp_path, mosquitto.address, fleet_name, "b1") as acting:
            wait_until(lambda: counted(collector, "recovered_acked") >= 1, timeout_s=60, what="the learner's refusal")
            assert counted(collector, "outbox_corrupt") == 1
    assert read_report(tmp_path)["ignored"]["refused_invalid"] == 1
    assert "Traceback" not in acting.said()


def test_F35_a_policy_and_a_window_that_are_pickles_are_refused_and_counted(
    trap: Trap, mosquitto: RunningBroker, fleet_name: str, collector: Collector, tmp_path: Path, wait_until: WaitUntil
):
    topics = FleetTopics(fleet_name)
    with (
        MqttConnection(mosquitto.address, client_id="stranger", subscriptions=[]) as stranger,
        learner(tmp_path, mosquitto.address, fleet_name) as learning,
        board(tmp_path, mosquitto.address, fleet_name, "b1") as acting,
    ):
        stranger.wait_connected(10)
        wait_until(lambda: env_steps(collector) > 2000, timeout_s=90, what="the first steps")
        run_id = next(board.telemetry.run_id for board in collector.snapshot().boards if board.telemetry)
        for version, body in enumerate((trap.pickle, b"\x1c\0\0\0TFL3" + trap.pickle), 900_000):
            frame = seal_frame(body, kind="policy", version=version, run_id=run_id)
            assert stranger.publish(topics.policy("all"), frame)
            refused = version - 900_000 + 1
            wait_until(lambda n=refused: counted(collector, "policies_refused") == n, timeout_s=30, what="the refusal")
        window = TrajectoryMessage(run_id=run_id, board_id="b9", boot_id="x", seq=0, oldest_seq=0, body=trap.pickle)
        assert stranger.publish(topics.up("b9", "trajectory"), encode(window))
        assert stranger.publish(topics.up("b9", "trajectory"), trap.pickle)
        assert stranger.flush(10)
        before = env_steps(collector)
        wait_until(lambda: env_steps(collector) > before + 2000, timeout_s=60, what="further steps")
    ignored = read_report(tmp_path)["ignored"]
    assert (ignored["refused_invalid"], ignored["decode_errors"]) == (1, 1)
    assert "Traceback" not in acting.said() + learning.said()


def test_F35_a_plugin_that_nobody_allowed_is_not_imported_and_the_doctor_names_it(
    trap: Trap,
    mosquitto: RunningBroker,
    fleet_name: str,
    collector: Collector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: WaitUntil,
):
    site = tmp_path / "site"
    (site / "evil_envs-1.0.dist-info").mkdir(parents=True)
    (site / "evil_envs.py").write_text(f"import os\nos.mkdir({str(trap.canary)!r})\n", encoding="ascii")
    (site / "evil_envs-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: evil-envs\nVersion: 1.0\n")
    (site / "evil_envs-1.0.dist-info/entry_points.txt").write_text("[gymnasium.envs]\n__root__ = evil_envs:register\n")
    monkeypatch.setenv("PYTHONPATH", f"{site}:{Path(__file__).parents[2]}")
    with (
        board(tmp_path, mosquitto.address, fleet_name, "b1") as acting,
        learner(tmp_path, mosquitto.address, fleet_name) as learning,
    ):
        wait_until(lambda: env_steps(collector) > 2000, timeout_s=90, what="steps in gymnasium's own environment")
        learning.kill()
        with MqttConnection(mosquitto.address, client_id="thief", subscriptions=[]) as thief:
            thief.wait_connected(10)
            for number, env_id in enumerate(("evil_envs:Evil", "evil_envs:Evil-v0", "evil_envs/Evil-v0"), 1):
                generation = 2**52 + number
                run = RunSpec(run_id=f"evil{number}", generation=generation, env_id=env_id, unroll_length=4)
                frame = seal_frame(encode(run), kind="run", version=generation, run_id=run.run_id)
                assert thief.publish(FleetTopics(fleet_name).run, frame, retain=True)
                wait_until(lambda run_id=run.run_id: problem_of(collector, run_id), timeout_s=30, what="the problem")
    assert "Traceback" not in acting.said()
    with Program(tmp_path / "doctor.log", "edgerl.doctor", "board") as doctor:
        doctor.process.wait(120)
    assert "evil-envs" in doctor.said()


def problem_of(collector: Collector, run_id: str) -> str:
    boards = [board for board in collector.snapshot().boards if board.birth and board.birth.run_id == run_id]
    return boards[0].problem.sentence if boards and boards[0].problem else ""
