"""Spaces: what an environment calls its own, what travels, and the way from one to the other.

Observations travel as float32 vectors or uint8 images [height, width, channels]; actions as branches of choices or as
flat vectors. Whatever else Gymnasium knows is refused with a sentence.
"""

# Gymnasium leaves its spaces' dtypes untyped; what is read of them here is converted at once.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim, flatten, flatten_space
from numpy.typing import NDArray

from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.spaces import BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec, SpaceSpec

_IMAGE_AXES: Final = (2, 3)
_IN_A_DICT: Final = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)

Reader = Callable[[Any], NDArray[Any]]
Bounds = tuple[NDArray[np.float32], NDArray[np.float32]]


class EnvironmentFault(Exception):
    """An environment raised, or gave something else than its spaces declare; says what happened."""


# --- observations -----------------------------------------------------------------------------------------------------


def observation_spec(space: spaces.Space[Any]) -> BoxSpec:
    """Describe an observation space as it travels.

    Raises:
        ProgramError: Policies cannot read such observations.
    """
    if isinstance(space, spaces.Dict):
        parts = dict(_parts(space, prefix=""))
        return BoxSpec(shape=(sum(parts.values()),), dtype="float32", parts=parts)
    if _is_image(space):
        return BoxSpec(shape=_as_image(np.empty(space.shape, np.uint8)).shape, dtype="uint8")  # type: ignore[arg-type]
    if isinstance(space, spaces.Box) and np.dtype(space.dtype).kind in "fiu":
        return BoxSpec(shape=(math.prod(space.shape),), dtype="float32")
    raise _unsupported(
        f"observation space {space}: expected a Box of numbers, a uint8 image, or a Dict of such",
        "gymnasium.wrappers.FlattenObservation turns most spaces into a vector",
    )


def observation_reader(space: spaces.Space[Any]) -> Reader:
    """What turns an observation into a row as it travels (not yet cast to its dtype).

    The reader raises EnvironmentFault for a shape or a kind of numbers that the space does not declare. Another width
    of the same kind (float64 for float32) is let pass: it does no harm, and is common.
    """
    if isinstance(space, spaces.Dict):
        return lambda observation: _read_dict(space, observation)
    shape, declared = space.shape, np.dtype(space.dtype)
    target = np.dtype(observation_spec(space).dtype)

    def read(observation: Any) -> NDArray[Any]:  # noqa: ANN401 - whatever the environment gives
        array = np.asarray(observation)
        if array.shape != shape:
            raise EnvironmentFault(f"an observation of shape {list(array.shape)}: its space declares {space}")
        if array.dtype != declared and not np.can_cast(array.dtype, target, "same_kind"):
            raise EnvironmentFault(f"an observation of {array.dtype}: its space declares {declared}")
        return array

    if _is_image(space):
        return lambda observation: _as_image(read(observation))
    return read if len(space.shape or ()) == 1 else lambda observation: read(observation).reshape(-1)


def observation_bounds(space: spaces.Space[Any]) -> Bounds | None:
    """Lower and upper bounds of a vector as it travels, float32 `[D]`; None for images and unbounded spaces."""
    if _is_image(space):
        return None
    flat = flatten_space(space)
    if not isinstance(flat, spaces.Box):
        return None
    low, high = (np.asarray(bound, np.float64).reshape(-1).astype(np.float32) for bound in (flat.low, flat.high))
    return (low, high) if np.isfinite(low).any() or np.isfinite(high).any() else None


def _parts(space: spaces.Dict, *, prefix: str) -> Iterator[tuple[str, int]]:
    for name, part in space.spaces.items():
        if isinstance(part, spaces.Dict):
            yield from _parts(part, prefix=f"{prefix}{name}.")
        elif isinstance(part, _IN_A_DICT) and not _is_image(part):
            yield f"{prefix}{name}", flatdim(part)
        else:
            raise _unsupported(
                f"entry {prefix}{name} of a Dict observation is {part}: a Dict may hold Box, Discrete, MultiDiscrete, "
                "MultiBinary and Dict, and no images",
                "give the image alone, or wrap the environment",
            )


def _read_dict(space: spaces.Dict, observation: Any) -> NDArray[Any]:  # noqa: ANN401 - whatever the environment gives
    try:
        flat = np.asarray(flatten(space, observation))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise EnvironmentFault(f"an observation that is not of its space {space}: {error!r}") from error
    if flat.shape != (flatdim(space),) or flat.dtype.kind not in "fiub":
        raise EnvironmentFault(f"an observation that flattens to {flat.dtype} {list(flat.shape)}: declared was {space}")
    return flat


def _is_image(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in _IMAGE_AXES


def _as_image(array: NDArray[Any]) -> NDArray[Any]:
    """[height, width], [height, width, channels] or [channels, height, width] as [height, width, channels]."""
    if array.ndim == 2:  # noqa: PLR2004 - an image without channels
        return array[:, :, None]
    return array.transpose(1, 2, 0) if array.shape[0] < array.shape[2] else array


# --- actions ----------------------------------------------------------------------------------------------------------


def action_spec(space: spaces.Space[Any]) -> SpaceSpec:
    """Describe an action space.

    Raises:
        ProgramError: Policies cannot act in such a space.
    """
    if isinstance(space, spaces.Discrete) and space.n > 1:
        return DiscreteSpec(n=int(space.n), start=int(space.start))
    if isinstance(space, spaces.MultiDiscrete) and int(space.nvec.min(initial=2)) > 1:
        start = space.start.reshape(-1).tolist()
        return MultiDiscreteSpec(nvec=space.nvec.reshape(-1).tolist(), start=start if any(start) else [])
    if isinstance(space, spaces.MultiBinary):
        return MultiBinarySpec(n=math.prod(space.shape))
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating) and math.prod(space.shape):
        bounds = np.asarray([space.low, space.high], np.float64).reshape(2, -1)
        bounded = bool(np.isfinite(bounds).all())
        low, high = (bounds[0].tolist(), bounds[1].tolist()) if bounded else ([], [])
        return BoxSpec(shape=space.shape or (1,), dtype=str(space.dtype), low=low, high=high)
    raise _unsupported(
        f"action space {space}: expected Discrete or MultiDiscrete with two choices or more, MultiBinary, or a Box of "
        "floats",
        "wrap the environment with gymnasium.wrappers.TransformAction",
    )


def action_shaper(space: spaces.Space[Any]) -> Callable[[Any], Any] | None:
    """What turns a flat action, as a sampler gives it, into one that the environment takes; None where it is one."""
    if isinstance(space, spaces.Discrete) or (isinstance(space, spaces.Box) and len(space.shape) == 1):
        return None
    shape, dtype = space.shape or (), np.dtype(space.dtype)
    return lambda action: np.asarray(action, dtype).reshape(shape)


def _unsupported(sentence: str, advice: str) -> ProgramError:
    return ProgramError(ExitCode.SPACE_UNSUPPORTED, f"{sentence}; {advice}")
