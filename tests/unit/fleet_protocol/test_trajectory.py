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


@given(st.integers(0, 100_000), st.integers(0, 255), st.booleans())
def test_a_flipped_byte_makes_a_window_or_a_bad_message(position: int, byte: int, compressed: bool):
    payload = bytearray(pack_trajectory(make_trajectory()) if compressed else repacked())
    payload[position % len(payload)] = byte
    with suppress(BadMessage):
        unpack_trajectory(bytes(payload))
