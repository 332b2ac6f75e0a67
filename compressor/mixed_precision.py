"""Which layers a policy cannot have rounded: each is tried alone, and the worst stay in float32.

sensitivities --> the layers, the most sensitive first --> keep one more of them, until the floor holds
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from compressor.calibration import Ranges
from compressor.fidelity import FidelityReport
from compressor.layer import UnsupportedPolicyError
from compressor.pipeline import compress
from compressor.policy_graph import Observations, PolicyGraph
from compressor.recipe import CompressionRecipe, RecipeError

Judge = Callable[[bytes], FidelityReport]
"""Compares a file with the policy."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What it costs the policy that only this layer is rounded.

    Attributes:
        layer: its name.
        kl_mean: of the file in which all others are float32, in nats.
        agreement: of that file.
        bytes_saved: what rounding it takes off the file.
    """

    layer: str
    kl_mean: float
    agreement: float
    bytes_saved: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A layer that stays in float32, and what that costs the board.

    Attributes:
        layer: its name.
        agreement: of the file with this layer and all that were kept before it.
        bytes_paid: by how much the file grew.
        us_paid: by how much its median step grew on this machine, in microseconds; noise may make it negative.
    """

    layer: str
    agreement: float
    bytes_paid: int
    us_paid: float


class FloorNotReached(UnsupportedPolicyError):
    """Not even with every layer in float32."""


def measure_sensitivities(
    graph: PolicyGraph,
    recipe: CompressionRecipe,
    judge: Judge,
    *,
    calibration: Observations | None = None,
    ranges: Ranges | None = None,
) -> list[Sensitivity]:
    """Round each layer alone; return them with the most sensitive first.

    Args:
        graph: the policy.
        recipe: how layers are rounded; what it keeps already is left out.
        judge: compares a file with the policy.
        calibration: as `compress` takes it.
        ranges: as `compress` takes them.

    Raises:
        RecipeError: the recipe rounds nothing.
    """
    if recipe.precision.is_float:
        raise RecipeError(f"{recipe} rounds no layer, so none can be kept from it: use int8-dynamic or int8")
    write = partial(compress, graph, metadata={}, calibration=calibration, ranges=ranges)
    layers = [name for name in graph.weighted_blocks() if name not in recipe.kept]
    exact = len(write(replace(recipe, kept=(*recipe.kept, *layers))).model)
    found: list[Sensitivity] = []
    for layer in layers:
        others = tuple(other for other in graph.weighted_blocks() if other != layer)
        model = write(replace(recipe, kept=others)).model
        report = judge(model)
        found.append(Sensitivity(layer, report.kl_mean, report.agreement, exact - len(model)))
    return sorted(found, key=lambda each: each.kl_mean, reverse=True)


def keep_until(
    graph: PolicyGraph,
    recipe: CompressionRecipe,
    judge: Judge,
    *,
    floor: float,
    sensitivities: Sequence[Sensitivity],
    calibration: Observations | None = None,
    ranges: Ranges | None = None,
) -> tuple[CompressionRecipe, list[Kept]]:
    """Keep the most sensitive layers in float32 until the agreement is high enough.

    Args:
        graph: the policy.
        recipe: to begin with.
        judge: compares a file with the policy.
        floor: the agreement to reach, 0 to 1.
        sensitivities: the layers, in the order in which they are kept.
        calibration: as `compress` takes it.
        ranges: as `compress` takes them.

    Returns:
        The recipe that reaches it, and what was paid for each layer that it keeps more.

    Raises:
        FloorNotReached: no number of kept layers does.
    """
    write = partial(compress, graph, metadata={}, calibration=calibration, ranges=ranges)
    kept: list[Kept] = []
    before = judge(write(recipe).model)
    waiting = list(sensitivities)
    while before.agreement < floor:
        if not waiting:
            raise FloorNotReached(
                f"the agreement is {before.agreement:.2%} with every layer of {recipe} in float32: lower the floor of "
                f"{floor:.2%}"
            )
        layer = waiting.pop(0).layer
        recipe = replace(recipe, kept=(*recipe.kept, layer))
        after = judge(write(recipe).model)
        kept.append(Kept(layer, after.agreement, after.bytes - before.bytes, after.time.p50_us - before.time.p50_us))
        before = after
    return recipe, kept
