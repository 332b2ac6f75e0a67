"""What a learner takes, refuses and remembers: each gate of the intake, and a state folder that never goes back."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_learner.board_book import BoardBook
from cloud_learner.checkpoints import StateFolder, VersionCounter
from cloud_learner.delivery_ledger import BootKey, DeliveryLedger
from cloud_learner.intake import Intake
from cloud_learner.trajectory_queue import QueuedWindow, TrajectoryQueue
from fleet_protocol.codec import encode
from fleet_protocol.commands import AtRest, CommandReply, EvaluationResult
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import Health, RunSpec, SketchState, Telemetry, TrajectoryMessage
from fleet_protocol.spaces import BoxSpec, DiscreteSpec
from fleet_protocol.topics import TopicAddress
from fleet_protocol.trajectory import Trajectory, pack_trajectory

RUN = RunSpec(run_id="r", generation=1, env_id="X", unroll_length=4)
N = 2


class Desk:
    """An intake with everything around it."""

    def __init__(self, *, version: int = 5, max_windows: int = 8) -> None:
        self.ledger, self.windows = DeliveryLedger(), TrajectoryQueue(max_windows)
        self.acked: list[tuple[BootKey, int]] = []
        self.book = BoardBook("r", (BoxSpec(shape=(3,), dtype="float32"), DiscreteSpec(n=3)))
        self.intake = Intake(
            RUN,
            ledger=self.ledger,
            windows=self.windows,
            book=self.book,
            ack=lambda boot, seq: self.acked.append((boot, seq)),
            current_version=lambda: version,
            max_policy_lag=3,
        )


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    with made.intake:
        yield made


def make_window(**changes: Any) -> Trajectory:
    parts: dict[str, Any] = {
        "head": "categorical",
        "observations": np.zeros((5, N, 3), np.float32),
        "actions": np.zeros((4, N), np.uint8),
        "rewards": np.zeros((4, N), np.float32),
        "terminated": np.zeros((4, N), np.bool_),
        "truncated": np.zeros((4, N), np.bool_),
        "is_first": np.zeros((4, N), np.bool_),
        "behavior_params": np.zeros((4, N, 2), np.int8),
        "policy_versions": np.full(4, 5, np.int64),
        "final_steps": np.empty(0, np.int32),
        "final_observations": np.empty((0, 3), np.float32),
    }
    return Trajectory(**(parts | changes))


def hand_over(desk: Desk, *, seq: int = 0, run_id: str = "r", topic_board: str = "b", **changes: Any) -> None:
    message = TrajectoryMessage(
        run_id=run_id, board_id="b", boot_id="boot", seq=seq, oldest_seq=0, body=pack_trajectory(make_window(**changes))
    )
    desk.intake.hand_over(TopicAddress("trajectory", topic_board), encode(message), 10)


def test_a_sound_window_is_queued_and_not_yet_acked(desk: Desk, wait_until: Callable[..., None]):
    hand_over(desk)
    wait_until(lambda: len(desk.windows) == 1)
    assert desk.acked == []
    assert desk.intake.trajectory_steps == 8


NOT_A_NUMBER = np.full((4, N), np.nan, np.float32)


@pytest.mark.parametrize(
    "changes",
    [
        {"rewards": NOT_A_NUMBER},
        {"observations": np.full((5, N, 3), np.inf, np.float32)},
        {"observations": np.zeros((5, N, 4), np.float32)},
        {"observations": np.zeros((5, N, 3), np.float64)},
        {"actions": np.full((4, N), 3, np.uint8)},
        {"actions": np.zeros((4, N), np.float32)},
        {"behavior_params": np.zeros((4, N, 3), np.int8)},
        {"policy_versions": np.full(4, 6, np.int64)},
        {"truncated": np.ones((4, N), np.bool_)},
        {"final_steps": np.array([1], np.int32), "final_observations": np.zeros((1, 3), np.float32)},
        {"wire_scale": float("nan")},
        {"episode_returns": [float("inf")]},
        {"head": "gaussian", "behavior_params": np.zeros((4, N, 2), np.float16)},
    ],
    ids="-".join,
)
def test_a_window_of_nonsense_is_refused_acked_and_counted(changes: Any, desk: Desk, wait_until: Callable[..., None]):
    hand_over(desk, **changes)
    wait_until(lambda: desk.intake.counters["refused_invalid"] == 1)
    assert desk.acked == [(("b", "boot"), 0)]
    assert len(desk.windows) == 0
    assert desk.ledger.totals().dropped == {"invalid": 1}


def test_a_window_of_another_length_is_refused(desk: Desk, wait_until: Callable[..., None]):
    longer = {
        name: np.zeros((5, *getattr(make_window(), name).shape[1:]), getattr(make_window(), name).dtype)
        for name in ("actions", "rewards", "terminated", "truncated", "is_first", "behavior_params")
    }
    hand_over(desk, observations=np.zeros((6, N, 3), np.float32), policy_versions=np.full(5, 5, np.int64), **longer)
    wait_until(lambda: desk.intake.counters["refused_invalid"] == 1)


def test_a_window_that_lags_too_far_is_refused_as_stale(desk: Desk, wait_until: Callable[..., None]):
    hand_over(desk, seq=0, policy_versions=np.full(4, 1, np.int64))
    hand_over(desk, seq=1, policy_versions=np.full(4, 2, np.int64))
    wait_until(lambda: len(desk.windows) == 1)
    assert desk.intake.counters["refused_stale"] == 1


def test_the_oldest_gives_way_when_the_queue_is_full(wait_until: Callable[..., None]):
    desk = Desk(max_windows=2)
    with desk.intake:
        for seq in range(3):
            hand_over(desk, seq=seq)
        wait_until(lambda: desk.intake.counters["refused_queue_full"] == 1)
    assert desk.acked == [(("b", "boot"), 0)]
    assert [window.seq for window in desk.windows.take(5, wait_s=0, idle_wait_s=0)] == [1, 2]


def test_a_window_of_another_run_or_of_somebody_else_is_only_counted(desk: Desk, wait_until: Callable[..., None]):
    hand_over(desk, run_id="older")
    hand_over(desk, topic_board="other")
    wait_until(lambda: desk.intake.counters["other_run"] == 1 and desk.intake.counters["decode_errors"] == 1)
    assert desk.ledger.totals().received == 0


@pytest.mark.parametrize("kind", ["trajectory", "telemetry", "status", "reply"])
def test_garbage_is_counted_and_the_next_message_is_taken(kind: str, desk: Desk, wait_until: Callable[..., None]):
    desk.intake.hand_over(TopicAddress(kind, "b"), b"\xde\xad", 10)
    hand_over(desk)
    wait_until(lambda: len(desk.windows) == 1)
    assert desk.intake.counters["decode_errors"] == 1


def test_telemetry_with_an_impossible_sketch_is_counted(desk: Desk, wait_until: Callable[..., None]):
    telemetry = Telemetry(board_id="b", boot_id="boot", uptime_s=1, sketches={"x": SketchState(count=3)})
    desk.intake.hand_over(TopicAddress("telemetry", "b"), encode(telemetry), 10)
    wait_until(lambda: desk.intake.counters["decode_errors"] == 1)


@pytest.mark.parametrize("health", [Health(pss_mb=math.nan), Health(pss_mb=math.inf)])
def test_telemetry_that_no_report_could_hold_is_counted(health: Health, desk: Desk, wait_until: Callable[..., None]):
    telemetry = Telemetry(board_id="b", boot_id="boot", uptime_s=1, health=health)
    desk.intake.hand_over(TopicAddress("telemetry", "b"), encode(telemetry), 10)
    wait_until(lambda: desk.intake.counters["decode_errors"] == 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e300])
def test_an_evaluation_that_no_report_could_hold_is_counted(value: float, desk: Desk, wait_until: Callable[..., None]):
    result = EvaluationResult(policy_version=1, returns=[1.0, value], lengths=[1, 1])
    reply = CommandReply(board_id="b", boot_id="x", issuer="learner", counter=1, result=result)
    desk.intake.hand_over(TopicAddress("reply", "b"), encode(reply), 0)
    wait_until(lambda: desk.intake.counters["decode_errors"] == 1)
    assert desk.book.reply("b", 1) is None


def test_a_board_answers_for_itself_alone_and_fills_no_memory(desk: Desk, wait_until: Callable[..., None]):
    for counter in range(1000):
        reply = CommandReply(board_id="b", boot_id="x", issuer="learner", counter=counter)
        desk.intake.hand_over(TopicAddress("reply", "b"), encode(reply), 0)
    wait_until(lambda: desk.book.reply("b", 999) is not None)
    assert desk.book.reply("other", 999) is None
    assert sum(desk.book.reply("b", counter) is not None for counter in range(1000)) <= 64


@pytest.mark.parametrize("ranges", [[(5, 2)], [(4, 5), (0, 2)], [(0, 3), (3, 4)], [(0, 2**64 - 1)], [(-1, 3)]])
def test_a_pause_answered_with_an_impossible_range_is_counted(ranges: Any, desk: Desk, wait_until: Callable[..., None]):
    at_rest = AtRest(run_id="r", produced=ranges, outbox=[], dropped={})
    reply = CommandReply(board_id="b", boot_id="x", issuer="learner", counter=1, result=at_rest)
    desk.intake.hand_over(TopicAddress("reply", "b"), encode(reply), 0)
    wait_until(lambda: desk.intake.counters["decode_errors"] == 1)
    assert desk.book.reply("b", 1) is None


def test_a_queue_gives_what_is_there_and_does_not_wait_for_ever():
    windows = TrajectoryQueue()
    assert windows.take(2, wait_s=0.01, idle_wait_s=0.01) == []
    windows.put(QueuedWindow(("b", "x"), 0, make_window()))
    assert len(windows.take(2, wait_s=0.01, idle_wait_s=0.01)) == 1


def test_a_checkpoint_comes_back_and_a_draft_never_does(tmp_path: Path):
    state = StateFolder(tmp_path)
    assert state.load() is None
    state.save({"version": 3, "ranges": [[0, 4]]})
    (tmp_path / "checkpoint.draft").write_bytes(b"half a checkpoi")
    assert StateFolder(tmp_path).load() == {"version": 3, "ranges": [[0, 4]]}


def test_a_checkpoint_that_is_garbage_is_named(tmp_path: Path):
    (tmp_path / "checkpoint.pt").write_bytes(b"garbage")
    with pytest.raises(ProgramError, match="move it away") as refused:
        StateFolder(tmp_path).load()
    assert refused.value.exit_code == ExitCode.STATE_UNUSABLE


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ProgramError, match="choose another --state"):
        StateFolder(tmp_path / "file" / "state")


def test_versions_never_go_back_over_crashes_and_brokers(tmp_path: Path):
    given: list[int] = []
    for above in (0, 0, 0, 5000, 10):  # each turn is a process that ends without a word
        counter = VersionCounter(StateFolder(tmp_path), above=above)
        given += [counter.next() for _ in range(3)]
    assert given == sorted(set(given))
    assert given[0] == 1
