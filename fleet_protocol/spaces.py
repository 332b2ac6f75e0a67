"""What goes into a policy and comes out of it, as boards tell it and policy files repeat it."""

import math
from typing import Annotated

from msgspec import Meta

from fleet_protocol.codec import Message

Extent = Annotated[int, Meta(ge=1)]
Choices = Annotated[int, Meta(ge=2)]


class BoxSpec(Message, frozen=True, kw_only=True, tag="box"):
    """A `Box` space. `low` and `high` are flat, in C order, and empty where the space is unbounded.

    Observations are float32 vectors `[D]` or uint8 images `[height, width, channels]`. A `Dict` space travels as one
    vector; `parts` then has the size of each entry by its name, in the order in which they lie.
    """

    shape: tuple[Extent, ...]
    dtype: str
    low: list[float] = []
    high: list[float] = []
    parts: dict[str, Extent] = {}


class DiscreteSpec(Message, frozen=True, kw_only=True, tag="discrete"):
    """A `Discrete` space: the integers `start` to `start + n - 1`."""

    n: Choices
    start: int = 0


class MultiDiscreteSpec(Message, frozen=True, kw_only=True, tag="multi_discrete"):
    """A `MultiDiscrete` space, flat: entry i is one of the integers `start[i]` to `start[i] + nvec[i] - 1`."""

    nvec: Annotated[list[Choices], Meta(min_length=1)]
    start: list[int] = []


class MultiBinarySpec(Message, frozen=True, kw_only=True, tag="multi_binary"):
    """A `MultiBinary` space, flat: n bits."""

    n: Extent


SpaceSpec = BoxSpec | DiscreteSpec | MultiDiscreteSpec | MultiBinarySpec


def branches(action: SpaceSpec) -> tuple[int, ...]:
    """How many choices each part of a discrete action has; empty for a continuous one.

    A branch is a categorical distribution of its own: `Discrete` has one, a bit of `MultiBinary` is one of two.
    """
    match action:
        case DiscreteSpec():
            return (action.n,)
        case MultiDiscreteSpec():
            return tuple(action.nvec)
        case MultiBinarySpec():
            return (2,) * action.n
        case BoxSpec():
            return ()


def head_size(action: SpaceSpec) -> int:
    """Width of the logits (of all branches, one after the other), or of the mean of a continuous action."""
    return math.prod(action.shape) if isinstance(action, BoxSpec) else sum(branches(action))


def stacked_shape(observation: BoxSpec, frame_stack: int) -> tuple[int, ...]:
    """Shape of what a policy sees: the newest `frame_stack` observations along the last axis, oldest first."""
    *others, last = observation.shape
    return (*others, last * frame_stack)
