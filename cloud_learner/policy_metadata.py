"""What a policy file says of itself, for the boards that load it."""

from collections.abc import Collection
from typing import Any, Final

from msgspec import to_builtins

from compressor import CompressionRecipe
from fleet_protocol.messages import RunSpec
from fleet_protocol.spaces import BoxSpec, SpaceSpec

_GRID_LIMIT: Final = 127
_HEADROOM: Final = 1.5
_SMALLEST_REACH: Final = 2.0


def policy_metadata(
    recipe: CompressionRecipe,
    *,
    heads: Collection[str],
    state_size: int,
    run: RunSpec,
    version: int,
    spaces: tuple[BoxSpec, SpaceSpec],
    largest_logit: float,
) -> dict[str, Any]:
    """Return a file's metadata, as JSON would have it.

    Args:
        recipe: How it is compressed.
        heads: Names of its outputs.
        state_size: Of its memory, 0 without one.
        run: For which it is.
        version: Its number there.
        spaces: What it observes and does.
        largest_logit: Largest difference of two logits lately, from which boards take their first grid.
    """
    observation, action = spaces
    return {
        "run_id": run.run_id,
        "policy_version": version,
        "head": "categorical" if "logits" in heads else "gaussian",
        "observation": to_builtins(observation),
        "action": to_builtins(action),
        "recipe": str(recipe),
        "wire_scale": max(_SMALLEST_REACH, _HEADROOM * largest_logit) / _GRID_LIMIT,
        "frame_stack": run.frame_stack,
        "state_size": state_size,
    }
