"""The newest policy is published, no faster than the bound, and what fails on the publisher's thread is told."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from all_kinds import IMAGE, Kind, make_network_of, make_window_of

from cloud_learner.batching import make_batch
from cloud_learner.calibration import imagined_observations, recent_observations
from cloud_learner.checkpoints import StateFolder, VersionCounter
from cloud_learner.policy_compressor import PolicyCompressor, Snapshot, require_fit
from cloud_learner.policy_publisher import PolicyPublisher
from compressor import CompressionRecipe, Layer, PolicyGraph, Precision, WeightScales, compress
from compressor.calibration import calibrate
from compressor.recipe import float32, int8_dynamic
from edge_actor.policy import Policy
from edge_actor.policy_file import read_metadata
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import RunSpec
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
    boards: Boards,
    folder: Path,
    *,
    max_bytes_per_s: float = 1e9,
    recipe: str = "int8-dynamic",
    old_runtime: bool = False,
) -> PolicyPublisher:
    run = RunSpec(run_id="r", generation=1, env_id="X", unroll_length=8)
    compressor = PolicyCompressor(
        [CompressionRecipe.parse(recipe), int8_dynamic(), float32()],
        run=run,
        spaces=(BoxSpec(shape=(2,), dtype="float32"), DiscreteSpec(n=3)),
        has_old_runtime=lambda: old_runtime,
        floor=0.1,
    )
    return PolicyPublisher(
        boards.take,
        versions=VersionCounter(StateFolder(folder), above=0),
        run=run,
        compressor=compressor,
        max_bytes_per_s=max_bytes_per_s,
    )


def metadata_of(boards: Boards, place: int = -1) -> dict[str, Any]:
    return read_metadata(open_frame(boards.frames[place], kind="policy", unsigned_allowed=True)[1])


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
    assert publisher.compressors["all"].model_bytes == len(model)
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


def test_where_a_recipe_does_not_fit_the_policy_boards_get_a_humbler_one_and_people_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    boards = Boards()
    with make_publisher(boards, tmp_path, recipe="float16") as publisher:
        for number in (1_000_000, 2_000_000):  # more than float16 can hold
            publisher.offer(make_snapshot(number))
            publisher.drain(10)
    assert metadata_of(boards)["recipe"] == "int8-dynamic"
    assert publisher.compressors["all"].stand_ins == publisher.published == 2
    assert len([line for line in caplog.messages if "float16" in line and "humbler" in line]) == 1


def test_what_is_too_far_from_the_policy_is_not_published(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    boards = Boards()
    graph = PolicyGraph(
        torso=(Layer(np.ones((64, 2), np.float32), np.zeros(64, np.float32), "relu"),),
        heads={"logits": Layer(np.eye(3, 64, dtype=np.float32), np.zeros(3, np.float32))},
    )
    graph.heads["logits"].weight[1:] *= -1
    shy, bold = (size * np.random.default_rng(1).random((128, 2), np.float32) for size in (0.1, 100))
    with make_publisher(boards, tmp_path, recipe="int8-full") as publisher:
        compressor = publisher.compressors["all"]
        with pytest.MonkeyPatch.context() as patch:  # what it was calibrated with is not what it meets
            patch.setattr("compressor.pipeline.calibrate", lambda graph, _seen: calibrate(graph, shy))
            for _ in range(2):
                publisher.offer(Snapshot(graph, 0.0, bold))
                publisher.drain(10)
    assert metadata_of(boards)["recipe"] == "int8-dynamic"
    assert compressor.stand_ins == 2
    assert compressor.divergence > 0.1
    assert len([line for line in caplog.messages if "max_compression_kl" in line]) == 1


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ("int8+keep(torso[7])", r"keeps torso\[7\], and the policy has no such layer"),
        ("distill(8,8)+int8", "gives 2 widths, but the policy's torso has 4 layers"),
        ("prune(0.99)+int8", r"less than one of the 32 units of torso\[0\]"),
    ],
)
def test_a_recipe_that_does_not_fit_the_network_ends_a_run_before_it_begins(recipe: str, sentence: str):
    policy = make_network_of(Kind(IMAGE)).to_graph()
    with pytest.raises(ProgramError, match=sentence) as refused:
        require_fit(CompressionRecipe.parse(recipe), policy)
    assert refused.value.exit_code == ExitCode.CONFIG
    require_fit(CompressionRecipe.parse("prune(0.5)+qat+int8-full+keep(logits)"), policy)


def test_a_recipe_that_trains_waits_for_its_student(tmp_path: Path):
    boards = Boards()
    with make_publisher(boards, tmp_path, recipe="distill(8)+float32") as publisher:
        snapshot = make_snapshot(3)
        publisher.offer(snapshot)
        publisher.drain(10)
        publisher.offer(replace(snapshot, student=(make_snapshot(7).graph, {})))
        publisher.drain(10)
    assert [metadata_of(boards, place)["recipe"] for place in (0, 1)] == ["int8-dynamic", "distill(8)+float32"]
    assert publisher.compressors["all"].stand_ins == 1
    assert numbers(boards) == [pytest.approx(3, rel=0.02), 7]


def test_a_version_that_cannot_be_reserved_is_not_given_away_before_it_can(tmp_path: Path):
    boards = Boards()
    (tmp_path / ".versions.draft").mkdir()
    with make_publisher(boards, tmp_path) as publisher:
        publisher.offer(make_snapshot(1))
        assert publisher.drain(0.2) == 0
        assert not boards.frames
        (tmp_path / ".versions.draft").rmdir()
        assert publisher.drain(10) == 1
    assert len(boards.frames) == 1


def test_the_file_says_how_many_frames_it_stacks_and_how_large_its_state_is(tmp_path: Path):
    boards = Boards()
    with make_publisher(boards, tmp_path) as publisher:
        publisher.offer(make_snapshot(1))
        publisher.drain(10)
        publisher.offer(Snapshot(make_network_of(Kind(memory="lstm")).to_graph(), 0.0))
        publisher.drain(10)
    assert [metadata_of(boards, place)["state_size"] for place in (0, 1)] == [0, 12]
    assert metadata_of(boards)["frame_stack"] == 1


def test_a_board_with_an_old_runtime_gets_one_scale_for_each_matrix_and_people_are_told_once(
    tmp_path: Path, caplog: Any
):
    boards = Boards()
    with make_publisher(boards, tmp_path, old_runtime=True) as publisher:
        for number in (1, 2):
            publisher.offer(make_snapshot(number))
            publisher.drain(10)
    assert metadata_of(boards)["recipe"] == "int8-dynamic+per-tensor"
    _, model = open_frame(boards.frames[-1], kind="policy", unsigned_allowed=True)
    expected = compress(
        make_snapshot(2).graph,
        CompressionRecipe(weight_scales=WeightScales.PER_TENSOR),
        metadata=metadata_of(boards),
    )
    assert model == expected.model
    assert [record.message.count("tflite-runtime") for record in caplog.records] == [1]


def test_a_recipe_that_the_old_runtime_can_read_is_left_alone(tmp_path: Path):
    boards = Boards()
    with make_publisher(boards, tmp_path, recipe="float16", old_runtime=True) as publisher:
        publisher.offer(make_snapshot(1))
        publisher.drain(10)
    assert metadata_of(boards)["recipe"] == "float16"


def test_static_int8_is_calibrated_with_what_came_and_before_that_with_what_may_come(tmp_path: Path):
    graph = make_network_of(Kind()).to_graph()
    batch = make_batch([make_window_of(Kind(), unroll_length=200)], torch.device("cpu"), (3,))
    recent = recent_observations(batch)
    seen = batch.observations.flatten(0, 1).numpy()
    assert recent.shape == (512, 3)
    assert {row.tobytes() for row in recent} <= {row.tobytes() for row in seen}
    boards = Boards()
    with make_publisher(boards, tmp_path, recipe="int8") as publisher:
        for calibration in (None, recent):
            publisher.offer(Snapshot(graph, 0.0, calibration))
            publisher.drain(10)
    for place, calibration in enumerate((imagined_observations(graph), recent)):
        _, model = open_frame(boards.frames[place], kind="policy", unsigned_allowed=True)
        expected = compress(
            graph, CompressionRecipe(Precision.INT8), metadata=metadata_of(boards, place), calibration=calibration
        )
        assert model == expected.model


def test_calibration_takes_fewer_images_than_vectors_and_imagines_what_the_policy_expects():
    kind = Kind(IMAGE, frame_stack=2)
    batch = make_batch([make_window_of(kind, unroll_length=20)], torch.device("cpu"), (3,))
    assert recent_observations(batch).shape == (32, 40, 37, 2)
    assert recent_observations(batch).dtype == np.uint8
    image = imagined_observations(make_network_of(kind).to_graph())
    assert (image.shape, image.dtype) == ((32, 40, 37, 2), np.uint8)
    graph = make_network_of(Kind()).to_graph()
    normalised = graph.normalise(imagined_observations(graph))
    np.testing.assert_allclose((normalised.mean(0), normalised.std(0)), ([0] * 3, [1] * 3), atol=0.15)
