"""Commands on a board: a pause ends with its run, and a bench that goes wrong costs an answer and nothing else."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from policies import make_shelf

from edge_actor import commander as commander_module
from edge_actor.child_process import ChildProcess
from edge_actor.commander import Commander
from fleet_protocol.commands import Bench, Command, CommandReply, Follow, Pause
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.messages import FrameHeader

GARBAGE = """
import sys
from multiprocessing.connection import Connection
pipe = Connection(int(sys.argv[1]))
pipe.send_bytes(b"\\xc1garbage")
pipe.recv_bytes()
"""


class Workers:
    """Hold still when they are told to."""

    def __init__(self) -> None:
        self.is_at_rest = False
        self.evaluated: list[Any] = []

    def halt(self, *, halted: bool) -> None:
        self.is_at_rest = halted


class Board:
    def __init__(self) -> None:
        self.workers, self.replies, self.followed = Workers(), list[CommandReply](), list[str]()
        self.counter = 0
        self.commander = Commander(
            "b",
            "boot",
            shelf=make_shelf(),
            workforce=self.workers,  # type: ignore[arg-type] - all of it that is asked for
            outbox=None,  # type: ignore[arg-type] - nobody asks it
            follow=self.followed.append,
            policy_bytes=1000,
            reply=self.replies.append,
            tell=lambda *_: None,
        )

    def tell(self, command: Command | Bench) -> None:
        self.counter += 1
        header = FrameHeader(
            kind="candidate" if isinstance(command, Bench) else "command",
            issuer="l",
            run_id="r",
            version=self.counter,
            target="b",
            issued_at=0.0,
            expires_at=1.0,
            size=0,
            sha256=bytes(32),
        )
        self.commander.take(header, command)


def test_a_pause_ends_with_its_run():
    board = Board()
    board.tell(Pause(run_id="r"))
    assert board.workers.is_at_rest
    board.workers.is_at_rest = False  # the next run starts its workers
    board.commander.begin_run()
    board.tell(Follow(group="all.pi"))
    assert not board.workers.is_at_rest
    assert board.followed == ["all.pi"]


def test_a_bench_that_says_garbage_is_a_problem_of_the_policy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wait_until: Callable[..., None]
):
    (tmp_path / "garbage.py").write_text(GARBAGE, encoding="ascii")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(commander_module, "ChildProcess", lambda _module, says: ChildProcess("garbage", says))
    board = Board()
    board.tell(Bench(model=b"x"))
    assert board.workers.is_at_rest

    def is_answered() -> bool:
        board.commander.answer()
        return bool(board.replies)

    wait_until(is_answered, timeout_s=30, what="an answer")
    (reply,) = board.replies
    assert reply.problem is not None
    assert reply.problem.code == ExitCode.USAGE
    board.commander.answer()
    assert not board.workers.is_at_rest


def test_a_policy_that_is_too_large_is_not_measured():
    board = Board()
    board.tell(Bench(model=bytes(1001)))
    assert "at most 1000 bytes" in (board.replies[0].problem or pytest.fail("no problem")).sentence
    assert not board.workers.is_at_rest


def test_a_bench_that_takes_too_long_is_ended_and_the_next_has_its_turn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wait_until: Callable[..., None]
):
    (tmp_path / "silent.py").write_text(GARBAGE.replace("pipe.send_bytes", "0 and "), encoding="ascii")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(commander_module, "ChildProcess", lambda _module, says: ChildProcess("silent", says))
    monkeypatch.setattr(commander_module, "_BENCH_LIMIT_S", 0.5)
    monkeypatch.setattr(commander_module, "_REST_WAIT_S", 0.1)  # shorter than the first takes
    board = Board()
    board.tell(Bench(model=b"x"))
    board.tell(Bench(model=b"y"))
    started = time.monotonic()

    def are_answered() -> bool:
        board.commander.answer()
        return len(board.replies) == 2

    wait_until(are_answered, timeout_s=30, what="both answers")
    assert all("not measured in" in reply.problem.sentence for reply in board.replies if reply.problem)
    assert time.monotonic() - started >= 1.0
