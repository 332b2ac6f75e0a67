"""The newest policy is published, older ones give way, and never more bytes a second than allowed."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cloud_learner.checkpoints import StateFolder, VersionCounter
from cloud_learner.policy_publisher import PolicyPublisher, Snapshot
from compressor import CompressionRecipe, Layer, PolicyGraph
from fleet_protocol.messages import BoxSpec, DiscreteSpec
from fleet_protocol.signing import open_frame


def make_snapshot(value: float) -> Snapshot:
    layer = Layer(np.full((4, 2), value, np.float32), np.zeros(4, np.float32), "tanh")
    head = Layer(np.full((2, 4), value, np.float32), np.zeros(2, np.float32))
    return Snapshot(PolicyGraph(torso=(layer,), heads={"logits": head}), largest_logit=1.0)


def make_publisher(folder: Path, publish: Callable[[str, bytes], None], max_bytes_per_s: float) -> PolicyPublisher:
    return PolicyPublisher(
        publish,
        versions=VersionCounter(StateFolder(folder), above=6),
        run_id="r",
        group="all",
        recipe=CompressionRecipe.parse("int8-dynamic"),
        head="categorical",
        spaces=(BoxSpec(shape=(2,), dtype="float32"), DiscreteSpec(n=2)),
        max_bytes_per_s=max_bytes_per_s,
    )


def test_a_published_frame_carries_the_next_version_and_the_whole_policy(tmp_path: Path):
    sent: list[tuple[str, bytes]] = []
    with make_publisher(tmp_path, lambda *message: sent.append(message), 1e9) as publisher:
        publisher.offer(make_snapshot(1.0))
        assert publisher.drain(5) == 7
    ((group, frame),) = sent
    header, model = open_frame(frame, kind="policy", unsigned_allowed=True)
    assert (group, header.version, header.target, len(model)) == ("all", 7, "all", publisher.model_bytes)


def test_while_one_is_published_only_the_newest_of_the_others_waits(tmp_path: Path):
    entered, leave = threading.Event(), threading.Event()
    sent: list[bytes] = []

    def slow_publish(_group: str, frame: bytes) -> None:
        sent.append(frame)
        entered.set()
        assert leave.wait(10)

    with make_publisher(tmp_path, slow_publish, 1e9) as publisher:
        publisher.offer(make_snapshot(0.0))
        assert entered.wait(10)
        for value in (1.0, 2.0, 3.0):
            publisher.offer(make_snapshot(value))
        leave.set()
        assert publisher.drain(10) == 8
    assert len(sent) == 2


def test_no_more_bytes_a_second_are_published_than_allowed(tmp_path: Path):
    sent: list[int] = []
    with make_publisher(tmp_path, lambda _group, frame: sent.append(len(frame)), 1.0) as publisher:
        publisher.offer(make_snapshot(0.0))
        publisher.drain(10)
        publisher.offer(make_snapshot(1.0))
        publisher.drain(0.3)  # at one byte a second, the second one is more than half an hour away
        assert len(sent) == 1


def test_what_goes_wrong_on_its_thread_is_raised_in_the_learners(tmp_path: Path):
    def failing(_group: str, _frame: bytes) -> None:
        raise OSError("no network card")

    with make_publisher(tmp_path, failing, 1e9) as publisher:
        publisher.offer(make_snapshot(0.0))
        with pytest.raises(OSError, match="no network card"):
            publisher.drain(10)
