"""What a board must not forget about keys and versions is on its disk: seldom written, and never what stops it."""

import stat
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edge_actor.board_files import BoardFiles
from edge_actor.board_memory import BoardMemory
from edge_actor.frame_gate import FrameGate
from edge_actor.policy_shelf import HeldPolicy
from fleet_manager.key_folder import KeyFolder
from fleet_protocol.codec import encode
from fleet_protocol.keys import PrivateKey
from fleet_protocol.messages import RunSpec
from fleet_protocol.signing import FrameRefused, Signer, seal_frame


class Board:
    """A board with a root key and a state folder; `begin` is a start of its agent."""

    def __init__(self, folder: Path) -> None:
        self.keys, self.state = folder / "keys", folder / "state"
        KeyFolder(self.keys).init(fleet="f", days=1.0)
        self.counters: Counter[str] = Counter()
        self.begin()

    def begin(self, *, keep_every_s: float = 3600.0) -> None:
        files = BoardFiles(self.state, count=lambda name, _: self.counters.update([name]))
        self.gate = FrameGate(
            str(self.keys / "root.pub"),
            fleet="f",
            clock_floor_s=0.0,
            is_loopback=True,
            files=files,
            keep_every_s=keep_every_s,
        )
        self.memory = BoardMemory(files, self.gate, keep_policy_every_s=0.0)

    def frame(self, kind: str, version: int, body: bytes = b"body") -> bytes:
        signer = Signer(PrivateKey.load(self.keys / "learner.key"), (self.keys / "keyring").read_bytes())
        target = "b1" if kind == "command" else "all"
        return seal_frame(
            body, kind=kind, version=version, run_id="r", target=target, signer=signer, issued_monotonic_ns=1
        )

    def take(self, kind: str, version: int) -> None:
        target = "b1" if kind == "command" else "all"
        header, _ = self.gate.open(self.frame(kind, version), kind=kind, target=target)
        self.gate.note(header)
        self.gate.keep()

    def keep_run(self, version: int) -> None:
        run = RunSpec(run_id="r", generation=version, env_id="CartPole-v1", unroll_length=8)
        self.memory.keep_run(self.frame("run", version, encode(run)))

    def recalled(self) -> list[int]:
        """The versions that a start would find."""
        recalled = self.memory.recall()
        return [policy.version for policy in recalled[1]] if recalled else []

    def keep_policy(self, version: int) -> None:
        frame = self.frame("policy", version)
        self.memory.keep_policy(HeldPolicy(*self.gate.open(frame, kind="policy", target="all"), frame))

    def refusal(self, kind: str, version: int) -> str:
        with pytest.raises(FrameRefused) as refused:
            self.take(kind, version)
        return refused.value.reason

    def writes(self) -> Any:
        return (self.state / "floors").stat().st_mtime_ns


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


@pytest.mark.parametrize(("kind", "reason"), [("run", "rollback"), ("command", "replayed"), ("candidate", "replayed")])
def test_a_run_and_a_command_are_kept_at_once(kind: str, reason: str, board: Board):
    board.take(kind, 10)
    board.begin()
    assert board.refusal(kind, 9) == reason


def test_policies_are_kept_when_it_is_time_and_at_the_end(board: Board):
    board.take("run", 1)
    board.take("policy", 10)
    written = board.writes()
    for version in range(11, 100):
        board.take("policy", version)
    assert board.writes() == written  # memory cards wear out
    board.gate.keep(now=True)
    board.begin()
    assert board.refusal("policy", 98) == "rollback"
    board.begin(keep_every_s=0.0)
    board.take("policy", 100)
    board.begin()
    assert board.refusal("policy", 99) == "rollback"


def test_a_keyring_is_kept_at_once(board: Board):
    board.take("policy", 1)
    stolen = PrivateKey.load(board.keys / "learner.key").key_id
    old = board.frame("policy", 3)
    KeyFolder(board.keys).revoke(stolen, days=1.0)
    KeyFolder(board.keys).rotate("learner", days=1.0)
    board.take("policy", 2)
    board.begin()
    with pytest.raises(FrameRefused) as refused:
        board.gate.open(old, kind="policy", target="all")
    assert refused.value.reason == "revoked_key"


@pytest.mark.parametrize("content", [b"", b"\xc1", b"torn"])
def test_what_cannot_be_read_is_counted_and_begins_anew(content: bytes, board: Board):
    board.take("run", 10)
    (board.state / "floors").write_bytes(content)
    board.begin()
    assert board.counters["state_unreadable"] == 1
    board.take("run", 9)


def test_floors_of_another_root_do_not_bind(board: Board, tmp_path: Path):
    other = Board(tmp_path / "other")
    other.take("run", 10)
    other.state.rename(board.state)
    board.begin()
    assert board.counters["state_unreadable"] == 1
    board.take("run", 9)


def test_a_disk_that_takes_nothing_is_counted(board: Board):
    board.state.write_bytes(b"a file where a folder should be")
    board.take("run", 10)
    assert board.counters["state_unwritable"] == 1
    assert board.refusal("run", 9) == "rollback"  # in memory it holds
    assert stat.S_ISREG(board.state.stat().st_mode)


def test_a_policy_of_another_root_is_not_kept_as_the_one_before(board: Board):
    board.keep_run(1)
    for version in (1, 2):
        board.keep_policy(version)
    assert board.recalled() == [2, 1]
    recalled = board.memory.recall()
    assert recalled is not None
    assert recalled[1][0].issued_monotonic_ns == 0  # it was not on its way since then
    KeyFolder(board.keys).rotate_root(days=1.0)
    board.keep_run(2)
    board.keep_policy(3)
    assert board.recalled() == [3]
    board.keep_policy(4)
    assert board.recalled() == [4, 3]
    assert not board.counters
