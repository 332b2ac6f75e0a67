"""One window of experience: T steps of N copies, as columns.

A worker packs it once; the bytes then travel unopened to the learner. Columns lie as [feature, N, T], with the bytes of
a number apart from each other (all lowest bytes first), so that zstd finds the runs: 15 bytes a CartPole step against
26 raw. What acted travels too: the head's outputs on the wire grid, and for continuous heads the log-probability.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from fleet_protocol.codec import BadMessage, Message, decode

try:
    import zstandard
except ImportError:  # a 32-bit board without the wheel sends its windows uncompressed
    zstandard = None

Head = Literal["categorical", "gaussian"]

_MAX_DIMENSIONS: Final = 8
_MAX_VERSION: Final = 2**63 - 1
_MAX_UNPACKED_BYTES: Final = 64 * 1024 * 1024
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_LEVEL: Final = 3
_DTYPES: Final = frozenset({"|b1", "|u1", "|i1", "<u2", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"})


class Column(Message, frozen=True, kw_only=True, array_like=True):
    """An array on the wire: dtype and shape of the array, and its bytes in the order described above."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class _Body(Message, frozen=True, kw_only=True):
    head: Head
    observations: Column
    actions: Column
    rewards: Column
    terminated: Column
    truncated: Column
    is_first: Column
    behavior_params: Column
    version_runs: list[tuple[int, int]]
    behavior_log_prob: Column | None = None
    wire_scale: float = 1.0
    frame_stack: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    initial_state: Column | None = None
    held_steps: Column | None = None
    final_steps: Column | None = None
    final_observations: Column | None = None
    episode_returns: list[float] = []
    episode_lengths: list[int] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """A window, decoded: exactly T steps x N copies.

    Attributes:
        head: The kind of distribution that acted.
        observations: `[T + frame_stack, N, ...]`, float32 or uint8, single frames. Row `frame_stack - 1 + t` is that of
            step t; the rows before it complete the first step's stack (where its episode is younger than the stack,
            they repeat its first frame). The last row is the observation after the last step.
        actions: Integers counted from 0, `[T, N]` or, with several branches, `[T, N, K]` (categorical); or float32
            `[T, N, A]`, unclipped (gaussian).
        rewards: float32 `[T, N]`.
        terminated: bool `[T, N]`.
        truncated: bool `[T, N]`.
        is_first: bool `[T, N]`: the step's observation came from a reset.
        behavior_params: What acted, on the wire grid. Categorical: int8 `[T, N, A - K]`, for each of the K branches
            its logits relative to its first, in units of `wire_scale`. Gaussian: float16 `[T, N, 2 A]`, means and
            then log standard deviations.
        wire_scale: Size of one unit of categorical `behavior_params`.
        behavior_log_prob: float32 `[T, N]` for a gaussian head; for a categorical one None: it follows.
        policy_versions: int64 `[T]`: the version that acted at each step (D6).
        final_steps: int32 `[K]`: t * N + n of the truncated steps, ascending.
        final_observations: `[K, ...]`: the true last observation of each of them.
        episode_returns: float `[E]`: undiscounted returns of the episodes that ended inside.
        episode_lengths: int `[E]`.
        frame_stack: How many observations made what the policy saw.
        initial_state: float32 `[N, H]`: the memory of a recurrent policy before the first step (and before it is
            zeroed where `is_first`); None for the others.
        held_steps: int32 `[H]`, ascending: steps after which a deadline was missed, and the last or the safe action
            was applied for one tick more; its reward is in the step's.
    """

    head: Head
    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    is_first: NDArray[np.bool_]
    behavior_params: NDArray[Any]
    policy_versions: NDArray[np.int64]
    final_steps: NDArray[np.int32]
    final_observations: NDArray[Any]
    wire_scale: float = 1.0
    behavior_log_prob: NDArray[np.float32] | None = None
    episode_returns: list[float] = field(default_factory=list[float])
    episode_lengths: list[int] = field(default_factory=list[int])
    frame_stack: int = 1
    initial_state: NDArray[np.float32] | None = None
    held_steps: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))

    @property
    def unroll_length(self) -> int:
        """T."""
        return self.rewards.shape[0]

    @property
    def copies(self) -> int:
        """N."""
        return self.rewards.shape[1]


def pack_trajectory(trajectory: Trajectory) -> bytes:
    """Pack a window for the wire."""
    log_prob = trajectory.behavior_log_prob
    body = _Body(
        head=trajectory.head,
        observations=_pack_column(trajectory.observations),
        actions=_pack_column(trajectory.actions),
        rewards=_pack_column(trajectory.rewards),
        terminated=_pack_column(trajectory.terminated),
        truncated=_pack_column(trajectory.truncated),
        is_first=_pack_column(trajectory.is_first),
        behavior_params=_pack_column(trajectory.behavior_params),
        version_runs=_run_lengths(trajectory.policy_versions),
        behavior_log_prob=None if log_prob is None else _pack_column(log_prob),
        wire_scale=trajectory.wire_scale,
        frame_stack=trajectory.frame_stack,
        initial_state=_pack_column(trajectory.initial_state) if trajectory.initial_state is not None else None,
        held_steps=_pack_column(trajectory.held_steps) if trajectory.held_steps.size else None,
        final_steps=_pack_column(trajectory.final_steps) if trajectory.final_steps.size else None,
        final_observations=_pack_column(trajectory.final_observations) if trajectory.final_steps.size else None,
        episode_returns=trajectory.episode_returns,
        episode_lengths=trajectory.episode_lengths,
    )
    packed = msgspec.msgpack.encode(body)
    return packed if zstandard is None else zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(packed)


def unpack_trajectory(payload: bytes) -> Trajectory:
    """Unpack an untrusted window; every shape is checked against its T and N.

    Raises:
        BadMessage: It is too large, is no such window, or its parts contradict each other.
    """
    body = decode(_decompress(payload), _Body, max_bytes=_MAX_UNPACKED_BYTES)
    rewards = _unpack_column(body.rewards, name="rewards", dtype="<f4")
    if rewards.ndim != 2 or rewards.size == 0:  # noqa: PLR2004 - T and N
        raise BadMessage(f"rewards: expected shape [T, N], got {list(rewards.shape)}")
    unroll_length, copies = rewards.shape

    def column(name: str, dtype: str | None = None, *, extra_steps: int = 0) -> NDArray[Any]:
        array = _unpack_column(getattr(body, name), name=name, dtype=dtype)
        if array.shape[:2] != (unroll_length + extra_steps, copies):
            raise BadMessage(
                f"{name}: expected [{unroll_length + extra_steps}, {copies}, ...], got {list(array.shape)}"
            )
        return array

    observations = column("observations", extra_steps=body.frame_stack)
    final_steps, final_observations = _unpack_finals(body, observations)
    return Trajectory(
        head=body.head,
        observations=observations,
        actions=column("actions"),
        rewards=rewards,
        terminated=column("terminated", "|b1"),
        truncated=column("truncated", "|b1"),
        is_first=column("is_first", "|b1"),
        behavior_params=column("behavior_params", "|i1" if body.head == "categorical" else "<f2"),
        policy_versions=_expand_runs(body.version_runs, unroll_length),
        final_steps=final_steps,
        final_observations=final_observations,
        wire_scale=body.wire_scale,
        behavior_log_prob=None if body.behavior_log_prob is None else column("behavior_log_prob", "<f4"),
        episode_returns=body.episode_returns,
        episode_lengths=body.episode_lengths,
        frame_stack=body.frame_stack,
        initial_state=_unpack_state(body.initial_state, copies),
        held_steps=_unpack_held(body.held_steps, unroll_length),
    )


def _pack_column(array: NDArray[Any]) -> Column:
    # [T, N, ...] -> [..., N, T]; numpy's transpose reverses all axes, and unpacking reverses them again.
    turned = np.ascontiguousarray(array.T)
    planes = turned.view(np.uint8).reshape(-1, array.dtype.itemsize).T
    return Column(dtype=array.dtype.str, shape=array.shape, data=planes.tobytes())


def _unpack_column(column: Column, *, name: str, dtype: str | None = None) -> NDArray[Any]:
    if column.dtype not in _DTYPES or (dtype is not None and column.dtype != dtype):
        raise BadMessage(f"{name}: expected dtype {dtype or 'of a number'}, got {column.dtype[:20]!r}")
    if len(column.shape) > _MAX_DIMENSIONS or max(column.shape, default=0) > _MAX_UNPACKED_BYTES:
        raise BadMessage(
            f"{name}: a shape of {len(column.shape)} extents up to {max(column.shape)} is beyond all limits"
        )
    kind = np.dtype(column.dtype)
    size = 1
    for extent in column.shape:
        size *= extent
    if min(column.shape, default=0) < 0 or size * kind.itemsize != len(column.data):
        raise BadMessage(f"{name}: {len(column.data)} bytes do not make {column.dtype} {list(column.shape)}")
    planes = np.frombuffer(column.data, np.uint8).reshape(kind.itemsize, -1)
    if column.dtype == "|b1" and planes.max(initial=0) > 1:
        raise BadMessage(f"{name}: expected bytes 0 and 1 for {column.dtype}")  # numpy counts any other one as itself
    try:
        turned = np.ascontiguousarray(planes.T).view(kind).reshape(column.shape[::-1])
    except ValueError as error:  # no elements, and extents that multiply beyond what can be addressed
        raise BadMessage(f"{name}: {error}") from error
    return np.ascontiguousarray(turned.T)


def _unpack_finals(body: _Body, observations: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[Any]]:
    if (body.final_steps is None) != (body.final_observations is None):
        raise BadMessage("final_steps and final_observations: expected both or none")
    if body.final_steps is None or body.final_observations is None:
        return np.empty(0, np.int32), np.empty((0, *observations.shape[2:]), observations.dtype)
    steps = _unpack_column(body.final_steps, name="final_steps", dtype="<i4").astype(np.int32)
    finals = _unpack_column(body.final_observations, name="final_observations", dtype=body.observations.dtype)
    expected = (steps.size, *observations.shape[2:])
    if steps.ndim != 1 or finals.shape != expected:
        raise BadMessage(f"final_observations: expected {list(expected)}, got {list(finals.shape)}")
    return steps, finals


def _unpack_state(column: Column | None, copies: int) -> NDArray[np.float32] | None:
    if column is None:
        return None
    state = _unpack_column(column, name="initial_state", dtype="<f4")
    if state.ndim != 2 or state.shape[0] != copies:  # noqa: PLR2004 - N and H
        raise BadMessage(f"initial_state: expected [{copies}, H], got {list(state.shape)}")
    return state


def _unpack_held(column: Column | None, unroll_length: int) -> NDArray[np.int32]:
    if column is None:
        return np.empty(0, np.int32)
    steps = _unpack_column(column, name="held_steps", dtype="<i4").astype(np.int32)
    if steps.ndim != 1 or (np.diff(steps, prepend=-1, append=unroll_length) < 1).any():
        raise BadMessage(f"held_steps: expected ascending steps below {unroll_length}")
    return steps


def _run_lengths(versions: NDArray[np.int64]) -> list[tuple[int, int]]:
    starts = np.flatnonzero(np.diff(versions, prepend=versions[0] - 1))
    lengths = np.diff(starts, append=versions.size)
    return [(int(versions[start]), int(length)) for start, length in zip(starts, lengths, strict=True)]


def _expand_runs(runs: list[tuple[int, int]], unroll_length: int) -> NDArray[np.int64]:
    if (
        any(length < 1 or not 0 <= version <= _MAX_VERSION for version, length in runs)
        or sum(n for _, n in runs) != unroll_length
    ):
        raise BadMessage(f"version_runs: expected positive runs of {unroll_length} steps together")
    return np.repeat(np.array([version for version, _ in runs], np.int64), [length for _, length in runs])


def _decompress(payload: bytes) -> bytes:
    if payload[:4] != _ZSTD_MAGIC:
        return payload
    if zstandard is None:
        raise BadMessage("a window is compressed with zstd, and the zstandard package is missing here")
    try:
        # The announced size decides how much memory is taken: look at it before anything is allocated.
        size = zstandard.frame_content_size(payload)
        if not 0 < size <= _MAX_UNPACKED_BYTES:
            raise BadMessage(f"a window of {size} bytes unpacked: expected 1 to {_MAX_UNPACKED_BYTES}")
        return zstandard.ZstdDecompressor().decompress(payload)
    except zstandard.ZstdError as error:
        raise BadMessage(f"broken zstd frame: {error}") from error
