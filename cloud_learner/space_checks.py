"""The first board's birth fixes a run's spaces: they must be of the kind and size that a policy can have."""

import math
from typing import Final

from cloud_learner.encoders import IMAGE_AXES
from fleet_protocol.codec import MAX_MESSAGE_BYTES, BadMessage
from fleet_protocol.spaces import BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec, SpaceSpec

_LARGEST_VECTOR: Final = 1_048_576
"""A layer of eight neurons over more numbers makes a policy that no message holds."""
_LARGEST_HEAD: Final = 65_536


def require_possible(observation: SpaceSpec | None, action: SpaceSpec | None) -> tuple[BoxSpec, SpaceSpec]:
    """Return both spaces if a policy can have them.

    Raises:
        BadMessage: One is missing, of a kind or shape that no board of ours tells, or beyond all sizes.
    """
    if not isinstance(observation, BoxSpec) or action is None:
        raise BadMessage("a birth of this run must tell a Box of observations and a space of actions")
    axes = {1: "float32", IMAGE_AXES: "uint8"}
    if axes.get(len(observation.shape)) != observation.dtype:
        raise BadMessage(
            "observations: expected a float32 vector or a uint8 image [height, width, channels], got "
            f"{observation.dtype[:20]} {list(observation.shape)}"
        )
    largest = _LARGEST_VECTOR if len(observation.shape) == 1 else MAX_MESSAGE_BYTES
    if math.prod(observation.shape) > largest:
        raise BadMessage(f"observations: expected at most {largest} numbers, got shape {list(observation.shape)}")
    if (size := _head_size(action)) > _LARGEST_HEAD:
        raise BadMessage(f"actions: expected at most {_LARGEST_HEAD} outputs of a policy, got {size}")
    return observation, action


def _head_size(action: SpaceSpec) -> int:
    # In numbers alone: `head_size` makes a tuple of all branches, however many somebody claims.
    match action:
        case DiscreteSpec():
            return action.n
        case MultiDiscreteSpec():
            return sum(action.nvec)
        case MultiBinarySpec():
            return 2 * action.n
        case BoxSpec():
            return math.prod(action.shape)
