"""A window comes back exactly, or is refused with BadMessage; a lie in it costs neither memory nor the process."""

from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fleet_protocol.codec import BadMessage
from fleet_protocol.trajectory import Trajectory, pack_trajectory, unpack_trajectory

T, N, D, A = 5, 3, 4, 3


def make_trajectory(**changes: Any) -> Trajectory:
    rng = np.random.default_rng(0)
    truncated = np.zeros((T, N), np.bool_)
    truncated[2, 1] = True
    parts: dict[str, Any] = {
        "head": "categorical",
        "observations": rng.standard_normal((T + 1, N, D), np.float32),
        "actions": rng.integers(0, A, (T, N)).astype(np.uint8),
        "rewards": rng.standard_normal((T, N), np.float32),
        "terminated": rng.random((T, N)) < 0.3,
        "truncated": truncated,
        "is_first": rng.random((T, N)) < 0.3,
        "behavior_params": rng.integers(-127, 128, (T, N, A - 1)).astype(np.int8),
        "wire_scale": 0.03,
        "policy_versions": np.array([7, 7, 8, 8, 9], np.int64),
        "final_steps": np.array([2 * N + 1], np.int32),
        "final_observations": rng.standard_normal((1, D), np.float32),
        "episode_returns": [3.5],
        "episode_lengths": [9],
    }
    return Trajectory(**(parts | changes))


def assert_same(expected: Trajectory, actual: Trajectory) -> None:
    for name in Trajectory.__dataclass_fields__:
        left, right = getattr(expected, name), getattr(actual, name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, name
            np.testing.assert_array_equal(left, right, err_msg=name)
        else:
            assert left == right, name


def repacked(**changes: Any) -> bytes:
    """A valid window's body with some parts replaced, uncompressed."""
    body = msgspec.msgpack.decode(zstandard.decompress(pack_trajectory(make_trajectory())))
    return msgspec.msgpack.encode(body | changes)


def test_a_window_comes_back_exactly():
    assert_same(make_trajectory(), unpack_trajectory(pack_trajectory(make_trajectory())))


def test_a_gaussian_window_comes_back_exactly():
    rng = np.random.default_rng(1)
    window = make_trajectory(
        head="gaussian",
        actions=rng.standard_normal((T, N, 2), np.float32),
        behavior_params=rng.standard_normal((T, N, 4)).astype(np.float16),
        behavior_log_prob=rng.standard_normal((T, N), np.float32),
    )
    assert_same(window, unpack_trajectory(pack_trajectory(window)))


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", "<i4", "<i8", "<f2", "<f4", "<f8"])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3, 5)])
def test_observations_of_any_shape_and_number_come_back_exactly(dtype: str, shape: tuple[int, ...]):
    observations = np.random.default_rng(2).integers(0, 100, (T + 1, N, *shape)).astype(dtype)
    window = make_trajectory(
        observations=observations, final_steps=np.empty(0, np.int32), final_observations=observations[0, :0]
    )
    assert_same(window, unpack_trajectory(pack_trajectory(window)))


def test_a_window_without_truncations_carries_no_final_observations():
    window = make_trajectory(final_steps=np.empty(0, np.int32), final_observations=np.empty((0, D), np.float32))
    assert unpack_trajectory(pack_trajectory(window)).final_observations.shape == (0, D)


def test_a_window_of_observations_without_numbers_comes_back_exactly():
    window = make_trajectory(
        observations=np.empty((T + 1, N, 0), np.float32), final_observations=np.empty((1, 0), np.float32)
    )
    assert_same(window, unpack_trajectory(pack_trajectory(window)))


def test_an_array_that_lies_backwards_in_memory_comes_back_exactly():
    observations = make_trajectory().observations[::-1, ::-1]
    assert_same(
        make_trajectory(observations=observations),
        unpack_trajectory(pack_trajectory(make_trajectory(observations=observations))),
    )


def test_an_uncompressed_window_is_read_too():
    assert_same(make_trajectory(), unpack_trajectory(repacked()))


@pytest.mark.parametrize(
    "changes",
    [
        {"rewards": ["<f4", [T, N], b""]},
        {"rewards": ["<f4", [T * N], bytes(4 * T * N)]},
        {"rewards": ["<f8", [T, N], bytes(8 * T * N)]},
        {"rewards": ["<f4", [0, N], b""]},
        {"rewards": ["|O8", [T, N], bytes(8 * T * N)]},
        {"rewards": ["<f4", [-T, -N], bytes(4 * T * N)]},
        {"observations": ["<f4", [T, N, D], bytes(4 * T * N * D)]},
        {"observations": ["<f4", [T + 1, 2**40, D], b""]},
        {"truncated": ["|b1", [N, T], bytes(T * N)]},
        {"truncated": ["|u1", [T, N], bytes(T * N)]},
        {"behavior_params": ["<f4", [T, N, 2], bytes(8 * T * N)]},
        {"version_runs": [[7, T - 1]]},
        {"version_runs": [[7, T + 1], [8, -1]]},
        {"version_runs": [[-7, T]]},
        {"version_runs": []},
        {"final_observations": ["<f4", [2, D], bytes(8 * D)]},
        {"final_steps": ["<f4", [1], bytes(4)]},
        {"final_steps": None},
        {"final_observations": None},
        {"final_observations": ["<f8", [1, D], bytes(8 * D)]},
        {"version_runs": [[2**63, T]]},  # one above int64
        {"version_runs": [[7, T - 1], [2**64 - 1, 1]]},
        {"terminated": ["|b1", [T, N], b"\x02" * (T * N)]},  # numpy would count a two as two
        {"observations": ["<f4", [T + 1, N] + [1] * 100, bytes(4 * (T + 1) * N)]},  # numpy knows 64 dimensions
        {"actions": ["<f4", [T, N, 0, 2**62], b""]},
        {"actions": ["<f4", [T, N, 0, 2**64 - 1], b""]},
        {"actions": ["<f4", [T, N, 0, 2**26, 2**26, 2**26], b""]},
        {"actions": ["<f4", [], bytes(4)]},
        {"observations": ["<f4", [1], bytes(4)]},
        {"head": "octopus"},
        {"actions": None},
        {"episode_returns": "many"},
    ],
    ids=str,
)
def test_a_window_that_contradicts_itself_is_refused(changes: dict[str, Any]):
    with pytest.raises(BadMessage):
        unpack_trajectory(repacked(**changes))


def test_a_small_frame_that_announces_much_is_refused_before_memory_is_taken():
    bomb = zstandard.compress(bytes(200_000_000), level=19)
    assert len(bomb) < 20_000
    with pytest.raises(BadMessage, match="200000000 bytes"):
        unpack_trajectory(bomb)


@pytest.mark.parametrize("cut", [1, 5, 20, 100])
def test_a_cut_frame_is_refused(cut: int):
    with pytest.raises(BadMessage):
        unpack_trajectory(pack_trajectory(make_trajectory())[:-cut])


def test_a_frame_of_unknown_size_is_refused():
    unknown = zstandard.ZstdCompressor(write_content_size=False).compress(repacked())
    with pytest.raises(BadMessage):
        unpack_trajectory(unknown)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
EXTENTS = st.lists(st.sampled_from([-1, 0, 1, 2, N, D, T, T + 1, T * N, 2**31, 2**63 - 1, 2**64 - 1]), max_size=12)
COLUMNS = st.tuples(st.sampled_from(["<f4", "|b1", "|i1", "<i4", "<f2", "O", "<U9"]), EXTENTS, st.binary(max_size=80))
RUNS = st.lists(st.tuples(st.integers(-2, 2**64 - 1), st.sampled_from([-1, 0, 1, 2, T, 2**64 - 1])), max_size=5)


@given(st.sampled_from(sorted(msgspec.msgpack.decode(repacked()))), PLAIN | COLUMNS | RUNS)
def test_any_value_in_any_place_makes_a_window_or_a_bad_message(name: str, value: object):
    with suppress(BadMessage):
        unpack_trajectory(repacked(**{name: value}))


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd\x20\x80"]))
def test_arbitrary_bytes_make_a_window_or_a_bad_message(payload: bytes, beginning: bytes):
    with suppress(BadMessage):
        unpack_trajectory(beginning + payload)


def test_a_frame_that_holds_more_than_it_announces_is_refused():
    frame = bytearray(zstandard.compress(repacked()))
    frame[5] -= 1  # the low byte of the announced size
    with pytest.raises(BadMessage):
        unpack_trajectory(bytes(frame))


@given(st.integers(0, 100_000), st.integers(0, 255), st.booleans())
def test_a_flipped_byte_makes_a_window_or_a_bad_message(position: int, byte: int, compressed: bool):
    payload = bytearray(pack_trajectory(make_trajectory()) if compressed else repacked())
    payload[position % len(payload)] = byte
    with suppress(BadMessage):
        unpack_trajectory(bytes(payload))


def test_frames_a_state_and_held_steps_come_back_exactly():
    rng = np.random.default_rng(3)
    window = make_trajectory(
        observations=rng.integers(0, 256, (T + 4, N, 6, 5, 1), np.uint8),
        final_observations=rng.integers(0, 256, (1, 6, 5, 1), np.uint8),
        frame_stack=4,
        actions=rng.integers(0, A, (T, N, 2)).astype(np.uint8),
        initial_state=rng.standard_normal((N, 7), np.float32),
        held_steps=np.array([0, 4], np.int32),
    )
    assert_same(window, unpack_trajectory(pack_trajectory(window)))


def test_a_window_of_stacked_images_carries_each_frame_once():
    """(T + 4) frames instead of 4 (T + 1): at most 0.30 of them at T = 20, before compression."""
    steps, frame = 20, 84 * 84
    rng = np.random.default_rng(4)
    window = make_trajectory(
        observations=rng.integers(0, 256, (steps + 4, 1, 84, 84, 1), np.uint8),
        frame_stack=4,
        actions=np.zeros((steps, 1), np.uint8),
        rewards=np.zeros((steps, 1), np.float32),
        terminated=np.zeros((steps, 1), np.bool_),
        truncated=np.eye(steps, 1, k=-3, dtype=np.bool_),
        is_first=np.zeros((steps, 1), np.bool_),
        behavior_params=np.zeros((steps, 1, 2), np.int8),
        policy_versions=np.full(steps, 7),
        final_steps=np.array([3], np.int32),
        final_observations=rng.integers(0, 256, (1, 84, 84, 1), np.uint8),
    )
    packed = len(zstandard.decompress(pack_trajectory(window)))
    assert packed <= 0.30 * 4 * (steps + 1) * frame
    assert_same(window, unpack_trajectory(pack_trajectory(window)))


@pytest.mark.parametrize(
    "changes",
    [
        {"frame_stack": 2},
        {"frame_stack": 0},
        {"frame_stack": 17},
        {"initial_state": ("<f4", (N + 1, 2), bytes(8 * (N + 1)))},
        {"initial_state": ("<f4", (N,), bytes(4 * N))},
        {"initial_state": ("<f8", (N, 2), bytes(16 * N))},
        {"held_steps": ("<i4", (1,), np.array([T], "<i4").tobytes())},
        {"held_steps": ("<i4", (1,), np.array([-1], "<i4").tobytes())},
        {"held_steps": ("<i4", (1, 1), bytes(4))},
    ],
    ids=str,
)
def test_a_stack_a_state_or_held_steps_that_do_not_fit_are_refused(changes: dict[str, Any]):
    with pytest.raises(BadMessage):
        unpack_trajectory(repacked(**changes))
