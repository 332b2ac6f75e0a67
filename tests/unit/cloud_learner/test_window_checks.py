"""Windows of every kind of run pass the gate as boards pack them, and what is not quite so is refused by its name."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from all_kinds import ARM, BITS, IMAGE, KINDS, PARTS, THREE, Kind, make_state_size, make_window_of
from test_intake_and_state import Desk

from cloud_learner.board_book import BoardBook
from cloud_learner.window_checks import check_window
from fleet_protocol.codec import BadMessage, encode
from fleet_protocol.messages import RunSpec, TrajectoryMessage
from fleet_protocol.spaces import MultiDiscreteSpec
from fleet_protocol.topics import TopicAddress
from fleet_protocol.trajectory import Trajectory, pack_trajectory, unpack_trajectory

T, N = 6, 3


def check(kind: Kind, window: Trajectory) -> None:
    """As the intake does, after a journey over the wire."""
    run = RunSpec(run_id="r", generation=1, env_id="X", unroll_length=T, frame_stack=kind.frame_stack)
    arrived = unpack_trajectory(pack_trajectory(window))
    check_window(arrived, run, (kind.observation, kind.action), state_size=make_state_size(kind))


@pytest.mark.parametrize("kind", [*KINDS, Kind(action=MultiDiscreteSpec(nvec=[5])), Kind(action=BITS)], ids=str)
def test_a_sound_window_of_every_kind_is_taken(kind: Kind):
    check(kind, make_window_of(kind))


def test_a_memory_may_begin_with_zeros_and_a_deadline_may_be_missed():
    kind = Kind(memory="gru")
    check(kind, make_window_of(kind, initial_state=np.zeros((N, 6), np.float32), held_steps=np.array([1, 4], np.int32)))


REFUSED: list[tuple[str, Kind, dict[str, Any]]] = [
    ("observations", Kind(IMAGE), {"observations": np.zeros((T + 1, N, 40, 37, 1), np.float32)}),
    ("observations", Kind(IMAGE), {"observations": np.zeros((T + 1, N, 37, 40, 1), np.uint8)}),
    ("observations", Kind(), {"observations": np.zeros((T + 1, N, 3), np.uint8)}),
    ("observations", Kind(), {"observations": np.full((T + 1, N, 3), 1e9, np.float32)}),
    ("rewards", Kind(), {"rewards": np.full((T, N), -1e9, np.float32)}),
    ("frame stack of 3", Kind(action=PARTS, frame_stack=3), {"frame_stack": 1}),
    ("initial_state: expected 6", Kind(memory="gru"), {"initial_state": None}),
    ("initial_state: expected 12", Kind(memory="lstm"), {"initial_state": np.zeros((N, 6), np.float32)}),
    ("initial_state: expected 0", Kind(), {"initial_state": np.zeros((N, 6), np.float32)}),
    ("initial_state: expected finite", Kind(memory="gru"), {"initial_state": np.full((N, 6), np.nan, np.float32)}),
    ("initial_state: expected finite", Kind(memory="lstm"), {"initial_state": np.full((N, 12), 1e10, np.float32)}),
    ("actions: expected 3 integers", Kind(action=PARTS), {"actions": np.zeros((T, N), np.uint8)}),
    ("actions: expected 3 integers", Kind(action=PARTS), {"actions": np.zeros((T, N, 3, 1), np.uint8)}),
    ("actions: expected 1 integers", Kind(action=THREE), {"actions": np.zeros((T, N, 1), np.uint8)}),
    ("below [3, 2, 4]", Kind(action=PARTS), {"actions": np.full((T, N, 3), 2, np.uint8)}),
    ("below [2, 2, 2]", Kind(action=BITS), {"actions": np.full((T, N, 3), -1, np.int8)}),
    ("categorical head with 6", Kind(action=PARTS), {"behavior_params": np.zeros((T, N, 8), np.int8)}),
    ("gaussian head with 8", Kind(action=ARM), {"behavior_params": np.zeros((T, N, 4), np.float16)}),
    ("actions: expected float32 [4]", Kind(action=ARM), {"actions": np.zeros((T, N, 2, 2), np.float32)}),
    ("terminated", Kind(), {"terminated": np.zeros((T, N, 2), np.bool_)}),
    ("is_first", Kind(), {"is_first": np.zeros((T, N, 1), np.bool_)}),
    ("behavior_log_prob", Kind(action=ARM), {"behavior_log_prob": np.zeros((T, N, 4), np.float32)}),
]


@pytest.mark.parametrize(
    ("words", "kind", "changes"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)]
)
def test_a_window_that_is_not_of_its_run_is_refused_by_name(words: str, kind: Kind, changes: dict[str, Any]):
    window = make_window_of(kind)
    if changes.get("frame_stack") == 1:
        changes = {**changes, "observations": window.observations[2:]}
    with pytest.raises(BadMessage) as refusal:
        check(kind, replace(window, **changes))
    assert words in str(refusal.value)


@pytest.mark.parametrize("has_state", [True, False])
def test_the_intake_knows_whether_its_run_has_a_memory(has_state: bool, wait_until: Callable[..., None]):
    kind = Kind(memory="gru")
    desk = Desk(version=5)
    desk.intake._book = BoardBook("r", (kind.observation, kind.action))
    desk.intake._state_size = 6 if has_state else 0
    body = pack_trajectory(make_window_of(kind, unroll_length=4, policy_versions=np.full(4, 5, np.int64)))
    message = TrajectoryMessage(run_id="r", board_id="b", boot_id="boot", seq=0, oldest_seq=0, body=body)
    with desk.intake:
        desk.intake.hand_over(TopicAddress("trajectory", "b"), encode(message), 10)
        wait_until(lambda: desk.intake.counters["refused_invalid"] or len(desk.windows))
    assert len(desk.windows) == int(has_state)
