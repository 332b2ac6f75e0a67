"""The newest policy is published, no faster than the bound, and what fails on the publisher's thread is told."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cloud_learner.checkpoints import StateFolder, VersionCounter
from cloud_learner.policy_publisher import PolicyPublisher, Snapshot
from compressor import CompressionRecipe, InvalidPolicyError, Layer, PolicyGraph
from edge_actor.policy import Policy
from fleet_protocol.signing import open_frame
from fleet_protocol.spaces import BoxSpec, DiscreteSpec


class Boards:
    """Takes what is published; `let_through` holds the publisher's thread back."""

    def __init__(self, *, failing: bool = False) -> None:
        self.frames: list[bytes] = []
        self.at: list[float] = []
        self.let_through = threading.Event()
        self.let_through.set()
        self.arrived = threading.Event()
        self._failing = failing

    def take(self, group: str, frame: bytes) -> None:
        assert group == "all"
        self.frames.append(frame)
        self.at.append(time.monotonic())
        self.arrived.set()
        assert self.let_through.wait(10)
        if self._failing:
            raise RuntimeError("a bug in the link")

    def policies(self) -> list[Policy]:
        return [Policy(open_frame(f, kind="policy", unsigned_allowed=True)[1], copies=1) for f in self.frames]


def make_publisher(
    boards: Boards, folder: Path, *, max_bytes_per_s: float = 1e9, recipe: str = "int8-dynamic"
) -> PolicyPublisher:
    return PolicyPublisher(
        boards.take,
        versions=VersionCounter(StateFolder(folder), above=0),
        run_id="r",
        group="all",
        recipe=CompressionRecipe.parse(recipe),
        head="categorical",
        spaces=(BoxSpec(shape=(2,), dtype="float32"), DiscreteSpec(n=3)),
        max_bytes_per_s=max_bytes_per_s,
    )


def make_snapshot(number: int, *, largest_logit: float = 0.0) -> Snapshot:
    """A policy whose first logit is its number, whatever it observes."""
    bias = np.array([number, 0, 0], np.float32)
    return Snapshot(
        PolicyGraph(
            torso=(Layer(np.ones((4, 2), np.float32), np.zeros(4, np.float32), "tanh"),),
            heads={"logits": Layer(np.zeros((3, 4), np.float32), bias)},
        ),
        largest_logit,
    )


def numbers(boards: Boards) -> list[float]:
    shown: list[float] = []
    for policy in boards.policies():
        policy.warm_up()
        shown.append(float(policy.outputs[0][0, 0]))
    return shown


def test_a_board_can_act_with_what_is_published(tmp_path: Path):
    boards = Boards()
    with make_publisher(boards, tmp_path) as publisher:
        publisher.offer(make_snapshot(5, largest_logit=12.7))
        assert publisher.drain(10) == 1
    (policy,) = boards.policies()
    header, model = open_frame(boards.frames[0], kind="policy", unsigned_allowed=True)
    assert (header.version, header.run_id, header.target) == (1, "r", "all")
    assert policy.metadata.policy_version == publisher.version == publisher.published == 1
    assert policy.metadata.action == DiscreteSpec(n=3)
    assert policy.metadata.wire_scale == pytest.approx(1.5 * 12.7 / 127)
    assert publisher.model_bytes == len(model)
    assert publisher.export_ms.count == 1
    assert numbers(boards) == [5.0]


def test_only_the_newest_of_several_offers_gets_its_turn(tmp_path: Path):
    boards = Boards()
    boards.let_through.clear()
    with make_publisher(boards, tmp_path) as publisher:
        publisher.offer(make_snapshot(1))
        assert boards.arrived.wait(10)
        for number in (2, 3, 4):
            publisher.offer(make_snapshot(number))
        boards.let_through.set()
        assert publisher.drain(10) == 2
    assert numbers(boards) == [1.0, 4.0]


def test_a_version_counts_as_published_before_a_board_can_answer_with_it(tmp_path: Path):
    boards = Boards()
    boards.let_through.clear()
    with make_publisher(boards, tmp_path) as publisher:
        publisher.offer(make_snapshot(1))
        assert boards.arrived.wait(10)
        assert publisher.version == 1
        boards.let_through.set()


def test_policies_wait_for_their_bytes_and_the_newest_is_sent_then(tmp_path: Path):
    boards = Boards()
    rate = 10_000.0  # a policy is some 1.5 kB
    with make_publisher(boards, tmp_path, max_bytes_per_s=rate) as publisher:
        publisher.offer(make_snapshot(1))
        publisher.drain(10)
        for number in (2, 3):
            publisher.offer(make_snapshot(number))
        publisher.drain(10)
    assert numbers(boards) == [1.0, 3.0]
    assert boards.at[1] - boards.at[0] >= len(boards.frames[0]) / rate


def test_closing_does_not_wait_for_the_bound(tmp_path: Path):
    boards = Boards()
    with make_publisher(boards, tmp_path, max_bytes_per_s=0.001) as publisher:
        publisher.offer(make_snapshot(1))
        publisher.drain(10)
        publisher.offer(make_snapshot(2))
        assert publisher.drain(0.1) == 1  # it waits for its bytes, and holds nobody up
        publisher.offer(make_snapshot(3))
        left_at = time.monotonic()
    assert time.monotonic() - left_at < 3
    assert numbers(boards) == [1.0]


def test_a_failure_is_raised_to_whoever_offers_or_waits(tmp_path: Path):
    boards = Boards(failing=True)
    with make_publisher(boards, tmp_path) as publisher:
        publisher.offer(make_snapshot(1))
        with pytest.raises(RuntimeError, match="a bug in the link"):
            publisher.drain(10)
        with pytest.raises(RuntimeError, match="a bug in the link"):
            publisher.offer(make_snapshot(2))


def test_a_policy_that_cannot_be_compressed_is_a_failure_too(tmp_path: Path):
    with make_publisher(Boards(), tmp_path, recipe="float16") as publisher:
        publisher.offer(make_snapshot(1_000_000))
        with pytest.raises(InvalidPolicyError):
            publisher.drain(10)
