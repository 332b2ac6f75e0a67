"""Spaces as they travel: what is supported is described and read exactly, and everything else is refused by name."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from edge_actor.board_spaces import (
    EnvironmentFault,
    action_shaper,
    action_spec,
    observation_bounds,
    observation_reader,
    observation_spec,
)
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.spaces import BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec


def box(*shape: int, dtype: Any = np.float32, low: float = -1, high: float = 1) -> spaces.Box:
    return spaces.Box(low, high, shape, dtype)


def image(*shape: int) -> spaces.Box:
    return box(*shape, dtype=np.uint8, low=0, high=255)


ARM = spaces.Dict({"wheel": spaces.Discrete(3), "arm": spaces.Dict({"joint": box(2), "grip": spaces.MultiBinary(2)})})


@pytest.mark.parametrize(
    ("space", "spec"),
    [
        (box(3, dtype=np.float64), BoxSpec(shape=(3,), dtype="float32")),
        (box(2, 3), BoxSpec(shape=(6,), dtype="float32")),
        (box(), BoxSpec(shape=(1,), dtype="float32")),
        (box(4, dtype=np.int64), BoxSpec(shape=(4,), dtype="float32")),
        (image(128), BoxSpec(shape=(128,), dtype="float32")),
        (image(84, 80), BoxSpec(shape=(84, 80, 1), dtype="uint8")),
        (image(84, 80, 3), BoxSpec(shape=(84, 80, 3), dtype="uint8")),
        (image(3, 84, 80), BoxSpec(shape=(84, 80, 3), dtype="uint8")),
        (ARM, BoxSpec(shape=(7,), dtype="float32", parts={"arm.grip": 2, "arm.joint": 2, "wheel": 3})),
    ],
    ids=str,
)
def test_an_observation_is_described_and_read_as_it_travels(space: spaces.Space[Any], spec: BoxSpec):
    assert observation_spec(space) == spec
    space.seed(5)
    row = observation_reader(space)(space.sample())
    assert row.shape == spec.shape


def test_a_dict_is_flattened_in_the_order_of_its_parts():
    observation = {
        "wheel": 1,
        "arm": {"joint": np.array([0.5, -0.5], np.float32), "grip": np.array([1, 0], np.int8)},
    }
    assert observation_reader(ARM)(observation).tolist() == [1, 0, 0.5, -0.5, 0, 1, 0]


@pytest.mark.parametrize("shape", [(5, 7, 3), (3, 5, 7), (5, 7)])
def test_every_pixel_of_an_image_arrives_at_its_place(shape: tuple[int, ...]):
    frame = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    row = observation_reader(image(*shape))(frame)
    for y in range(5):
        for x in range(7):
            for channel in range(row.shape[2]):
                source = {(5, 7, 3): (y, x, channel), (3, 5, 7): (channel, y, x), (5, 7): (y, x)}[shape]
                assert row[y, x, channel] == frame[source]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Tuple([box(2)]),
        spaces.Discrete(3),
        spaces.MultiDiscrete([2, 3]),
        spaces.Text(5),
        spaces.Sequence(box(2)),
        box(2, dtype=np.bool_, low=0, high=1),
        spaces.Dict({"camera": image(84, 84, 3)}),
        spaces.Dict({"deep": spaces.Dict({"words": spaces.Text(5)})}),
    ],
    ids=str,
)
def test_an_observation_that_policies_cannot_read_is_refused_with_a_way_out(space: spaces.Space[Any]):
    with pytest.raises(ProgramError, match=r"wrap|Flatten") as refusal:
        observation_spec(space)
    assert refusal.value.exit_code == ExitCode.SPACE_UNSUPPORTED


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (box(4), np.zeros(1, np.float32)),
        (box(4), np.zeros((4, 1), np.float32)),
        (box(2), np.array(["a", "b"])),
        (box(2), np.zeros(2, np.complex64)),
        (box(2), None),
        (image(5, 7, 3), np.zeros((5, 7, 3), np.float32)),
        (image(5, 7, 3), np.zeros((7, 5, 3), np.uint8)),
        (ARM, {"wheel": 1}),
        (ARM, [1, 2, 3]),
        (ARM, {"wheel": 1, "arm": {"joint": np.zeros(3, np.float32), "grip": np.zeros(2, np.int8)}}),
    ],
    ids=str,
)
def test_an_observation_that_breaks_its_space_is_not_read(space: spaces.Space[Any], observation: Any):
    with pytest.raises(EnvironmentFault):
        observation_reader(space)(observation)


@pytest.mark.parametrize(
    "observation", [np.zeros(2), [0.5, 0.5], np.zeros(2, np.int64), np.zeros(2, np.float16)], ids=str
)
def test_another_width_of_the_same_numbers_does_no_harm(observation: Any):
    assert observation_reader(box(2))(observation).shape == (2,)


def test_bounds_lie_as_the_vector_does():
    bounds = observation_bounds(spaces.Dict({"b": box(1, low=-3, high=4), "a": box(2)}))
    assert bounds is not None
    assert bounds[0].tolist() == [-1, -1, -3]
    assert bounds[1].tolist() == [1, 1, 4]
    assert observation_bounds(box(2, low=-np.inf, high=np.inf)) is None
    assert observation_bounds(image(5, 5)) is None


@pytest.mark.parametrize(
    ("space", "spec"),
    [
        (spaces.Discrete(3, start=-1), DiscreteSpec(n=3, start=-1)),
        (spaces.MultiDiscrete([2, 3]), MultiDiscreteSpec(nvec=[2, 3])),
        (
            spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [2, 3]]),
            MultiDiscreteSpec(nvec=[2, 3, 4, 5], start=[0, 1, 2, 3]),
        ),
        (spaces.MultiBinary([2, 2]), MultiBinarySpec(n=4)),
        (box(2, dtype=np.float64), BoxSpec(shape=(2,), dtype="float64", low=[-1, -1], high=[1, 1])),
        (box(2, 2), BoxSpec(shape=(2, 2), dtype="float32", low=[-1] * 4, high=[1] * 4)),
        (box(1, low=-np.inf, high=np.inf), BoxSpec(shape=(1,), dtype="float32")),
    ],
    ids=str,
)
def test_an_action_space_is_described_as_it_travels(space: spaces.Space[Any], spec: Any):
    assert action_spec(space) == spec


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"arm": box(2)}),
        spaces.Tuple([box(2)]),
        spaces.Discrete(1),
        box(2, dtype=np.int32),
        spaces.MultiDiscrete([1, 3]),
    ],
    ids=str,
)
def test_a_space_that_policies_cannot_act_in_is_refused(space: spaces.Space[Any]):
    with pytest.raises(ProgramError) as refusal:
        action_spec(space)
    assert refusal.value.exit_code == ExitCode.SPACE_UNSUPPORTED


@pytest.mark.parametrize(
    ("space", "flat"),
    [
        (spaces.Discrete(3, start=-1), 1),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), np.array([1, 2, 3, 4], np.int64)),
        (spaces.MultiBinary([2, 2]), np.array([1, 0, 0, 1], np.int64)),
        (box(2), np.array([0.5, 1], np.float32)),
        (box(2, 2), np.array([0.5, 1, 0, -1], np.float32)),
        (box(), np.array([0.5], np.float32)),
    ],
    ids=str,
)
def test_a_flat_action_becomes_one_of_the_environments_space(space: spaces.Space[Any], flat: Any):
    shape = action_shaper(space)
    action = flat if shape is None else shape(flat)
    assert space.contains(action)
    assert np.ravel(action).tolist() == np.ravel(flat).tolist()
