"""One window must not poison a learner: absurd numbers, repeats, strangers, and windows of a gaussian head."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_intake_and_state import Desk, N, hand_over

from cloud_learner.board_book import BoardBook
from fleet_protocol.codec import encode
from fleet_protocol.messages import Birth, TrajectoryMessage
from fleet_protocol.spaces import BoxSpec
from fleet_protocol.topics import TopicAddress

WaitUntil = Callable[..., None]
ACTION = BoxSpec(shape=(2,), dtype="float64")
GAUSSIAN: dict[str, Any] = {
    "head": "gaussian",
    "actions": np.zeros((4, N, 2), np.float32),
    "behavior_params": np.zeros((4, N, 4), np.float16),
    "behavior_log_prob": np.zeros((4, N), np.float32),
}


@pytest.fixture
def desk():
    made = Desk()
    with made.intake:
        yield made


@pytest.fixture
def gaussian_desk():
    made = Desk()
    made.intake._book = BoardBook("r", (BoxSpec(shape=(3,), dtype="float32"), ACTION))
    with made.intake:
        yield made


def is_refused(desk: Desk, wait_until: WaitUntil) -> bool:
    wait_until(lambda: desk.intake.counters["refused_invalid"] or len(desk.windows))
    assert desk.acked == [(("b", "boot"), 0)] * (1 - len(desk.windows))
    return len(desk.windows) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"wire_scale": 1e300},
        {"wire_scale": 0.0},
        {"wire_scale": -0.05},
        {"episode_returns": [1e308, 1e308]},
        {"rewards": np.full((4, N), 3e38, np.float32)},
        {"observations": np.full((5, N, 3), -3e38, np.float32)},
        {"actions": np.full((4, N), -1, np.int8)},
    ],
    ids="-".join,
)
def test_a_finite_number_that_would_overflow_is_refused(changes: Any, desk: Desk, wait_until: WaitUntil):
    hand_over(desk, **changes)
    assert is_refused(desk, wait_until)


def test_a_sound_window_of_a_gaussian_head_is_queued(gaussian_desk: Desk, wait_until: WaitUntil):
    hand_over(gaussian_desk, **GAUSSIAN)
    assert not is_refused(gaussian_desk, wait_until)


@pytest.mark.parametrize(
    "changes",
    [
        {"behavior_log_prob": None},
        {"behavior_log_prob": np.full((4, N), -np.inf, np.float32)},
        {"behavior_params": np.full((4, N, 4), np.inf, np.float16)},
        {"behavior_params": np.zeros((4, N, 2), np.float16)},
        {"actions": np.zeros((4, N, 3), np.float32)},
        {"actions": np.zeros((4, N, 2), np.float64)},
        {"actions": np.full((4, N, 2), np.nan, np.float32)},
        {"head": "categorical", "behavior_params": np.zeros((4, N, 4), np.int8)},
    ],
    ids="-".join,
)
def test_a_gaussian_window_of_nonsense_is_refused(changes: Any, gaussian_desk: Desk, wait_until: WaitUntil):
    hand_over(gaussian_desk, **(GAUSSIAN | changes))
    assert is_refused(gaussian_desk, wait_until)


def test_a_finished_window_is_acked_again_and_a_queued_one_is_not(desk: Desk, wait_until: WaitUntil):
    for _ in range(3):
        hand_over(desk)
    wait_until(lambda: desk.ledger.totals().received == 3)
    assert (desk.acked, len(desk.windows)) == ([], 1)
    (window,) = desk.windows.take(1, wait_s=0, idle_wait_s=0)
    desk.ledger.mark_learned(window.boot, window.seq)
    hand_over(desk)
    wait_until(lambda: desk.acked == [(("b", "boot"), 0)], what="the second ack")
    totals = desk.ledger.totals()
    assert (totals.received, totals.duplicates, totals.learned, len(desk.windows)) == (4, 3, 1, 0)


def test_a_body_that_does_not_unpack_is_refused_and_acked(desk: Desk, wait_until: WaitUntil):
    message = TrajectoryMessage(run_id="r", board_id="b", boot_id="boot", seq=0, oldest_seq=0, body=b"garbage")
    desk.intake.hand_over(TopicAddress("trajectory", "b"), encode(message), 10)
    assert is_refused(desk, wait_until)
    assert desk.intake.trajectory_bytes == 0


def test_another_protocol_is_counted_and_not_decoded(desk: Desk, wait_until: WaitUntil):
    desk.intake.hand_over(TopicAddress("trajectory", "b", protocol=2), b"whatever", 10)
    wait_until(lambda: desk.intake.counters["protocol_mismatch"] == 1)


def test_a_window_before_any_birth_is_refused_and_after_it_taken(wait_until: WaitUntil):
    desk = Desk()
    spaces = desk.intake._book.spaces
    assert spaces is not None
    desk.intake._book = BoardBook("r", None)
    birth = Birth(
        board_id="b",
        boot_id="boot",
        session_id="s",
        software="x",
        run_id="r",
        observation_space=spaces[0],
        action_space=spaces[1],
    )
    with desk.intake:
        hand_over(desk, seq=0)
        desk.intake.hand_over(TopicAddress("status", "b"), encode(birth), 10)
        hand_over(desk, seq=1)
        wait_until(lambda: len(desk.windows) == 1)
    assert desk.intake.counters["refused_invalid"] == 1
    assert desk.ledger.totals().dropped == {"invalid": 1}


def test_a_mistake_of_ours_on_the_intakes_thread_is_raised_to_the_learner(wait_until: WaitUntil):
    desk = Desk()
    desk.intake._current_version = lambda: 1 // 0
    with desk.intake:
        hand_over(desk)
        wait_until(lambda: desk.intake._failure is not None)
        with pytest.raises(ZeroDivisionError):
            desk.intake.raise_failure()
