"""Quantisation-aware training: a policy in torch that rounds wherever its file will, so that it can learn to.

The ranges that static grids learn go into the file (`learned_ranges`): nothing is calibrated again. Which part
rounds how is the plan of `tflite_writer/policy.py`; a test holds both against each other.
"""

from collections.abc import Iterator
from typing import Final

from torch import nn

from compressor.calibration import Ranges
from compressor.layer import Block, Convolution, Layer, Relu, Residual, UnsupportedPolicyError
from compressor.policy_graph import PolicyGraph
from compressor.recipe import CompressionRecipe, Precision, WeightScales
from compressor.rounding import (
    DynamicRounding,
    Grid,
    Pixels,
    StaticRounding,
    TanhRounding,
    round_static,
    round_weight,
)
from compressor.tflite_writer.arithmetic import SMALLEST_INT8_WEIGHT
from compressor.torch_modules import ResidualBlock
from compressor.torch_policy import TorchPolicy
from compressor.tower import Tower, named_blocks

_WEIGHTED: Final = (Layer, Convolution, Residual)
_KERNEL_RANK: Final = 4


def make_rounded(graph: PolicyGraph, recipe: CompressionRecipe, ranges: Ranges) -> TorchPolicy:
    """Return the policy in torch, rounding as its file will.

    Args:
        graph: The policy.
        recipe: How it will be stored.
        ranges: Where activations lie, for static precisions to begin with; else empty.

    Raises:
        UnsupportedPolicyError: A residual block under static int8: its sum is on two grids at once.
    """
    policy = TorchPolicy(graph)
    plan = _Plan(recipe, ranges)
    seen = plan.static("observation") if plan.is_full and graph.image_shape is None else Pixels()
    policy.torso, features = plan.tower("torso", graph.torso, policy.torso, seen)
    own = features
    if graph.value_torso is not None and policy.value_torso is not None:
        policy.value_torso, own = plan.tower("value_torso", graph.value_torso, policy.value_torso, seen)
    if policy.memory is not None and "memory" not in recipe.kept:
        for weight in ("weight_ih", "weight_hh"):
            round_weight(policy.memory.cell, name=weight, is_per_tensor=plan.is_per_tensor)
        policy.memory.round_features, policy.memory.round_hidden = DynamicRounding(), DynamicRounding()
    for name, head in graph.heads.items():
        policy.heads[name] = plan.head(name, head, policy.heads[name], features)
    if graph.value_head is not None and policy.value is not None:
        policy.value = plan.head("value", graph.value_head, policy.value, own)
    return policy


def learned_ranges(policy: TorchPolicy, ranges: Ranges) -> Ranges:
    """The ranges that training began with, where it has not learned others."""
    learned = {module.name: module.range for module in policy.modules() if isinstance(module, StaticRounding)}
    return {**ranges, **learned}


class _Plan:
    """Which block rounds how."""

    def __init__(self, recipe: CompressionRecipe, ranges: Ranges) -> None:
        self._recipe = recipe
        self._ranges = ranges
        self._is_static = recipe.needs_calibration
        self.is_full = recipe.precision is Precision.INT8_FULL
        self.is_per_tensor = recipe.weight_scales is WeightScales.PER_TENSOR

    def static(self, name: str, *, is_positive: bool = False) -> StaticRounding:
        """The grid of a tensor."""
        return StaticRounding(name, self._ranges[name], is_positive=is_positive)

    def tower(self, name: str, tower: Tower, modules: nn.Sequential, seen: Grid) -> tuple[nn.Sequential, Grid]:
        """The modules of a tower, and between them what rounds; and the grid of what comes out, if it has one."""
        rounded: list[nn.Module] = [seen] if isinstance(seen, nn.Module) else []  # pixels are integers
        rounded += self._tower(name, tower, modules, seen)
        grids = [module for module in rounded if isinstance(module, StaticRounding | TanhRounding)]
        return nn.Sequential(*rounded), grids[-1] if grids else seen

    def _tower(self, tower_name: str, tower: Tower, modules: nn.Sequential, source: Grid) -> Iterator[nn.Module]:
        blocks, given = list(named_blocks(tower_name, tower)), iter(modules)
        arithmetics = list(self._arithmetics(blocks))
        for index, (name, block) in enumerate(blocks):
            module = next(given)
            activation = next(given) if isinstance(block, Layer | Convolution) and block.activation else None
            if arithmetics[index] == "static":
                for part in self._static_block(name, block, module, activation, source):
                    source = part if isinstance(part, StaticRounding | TanhRounding) else source
                    yield part
                continue
            yield from self._dynamic(name, block, module) if arithmetics[index] == "dynamic" else [module]
            if activation is not None:
                yield activation
            if arithmetics[index + 1 : index + 2] == ["static"] and isinstance(block, _WEIGHTED):
                source = self.static(name, is_positive=isinstance(activation, nn.ReLU))
                yield source

    def head(self, name: str, head: Layer, module: nn.Module, source: Grid) -> nn.Module:
        """A head, behind what rounds its inputs, and before what rounds its outputs."""
        if name in self._recipe.kept or (self._is_static and not self.is_full):
            return module
        if not self.is_full:
            return nn.Sequential(*self._dynamic(name, head, module))
        round_static(module, source)
        return nn.Sequential(module, self.static(f"{name}.sums"))

    def _arithmetics(self, blocks: list[tuple[str, Block]]) -> Iterator[str]:
        """Whether each block is `exact`, `dynamic` or `static`, as `_PolicyWriter.tower` has it."""
        is_first = True
        for name, block in blocks:
            is_weighted = isinstance(block, _WEIGHTED)
            if name in self._recipe.kept:
                yield "exact"
            elif not self._is_static:
                yield "dynamic" if is_weighted else "exact"
            else:
                yield "static" if self.is_full or not is_first else "exact"
            is_first = is_first and not is_weighted

    def _dynamic(self, name: str, block: Block, module: nn.Module) -> list[nn.Module]:
        if isinstance(module, ResidualBlock) and isinstance(block, Residual):
            module.first = nn.Sequential(*self._dynamic(name, block.first, module.first))
            module.second = nn.Sequential(*self._dynamic(name, block.second, module.second))
            return [module]
        if not isinstance(block, Layer | Convolution) or block.weight.size < SMALLEST_INT8_WEIGHT:
            return [module]
        round_weight(module, is_per_tensor=self.is_per_tensor and block.weight.ndim < _KERNEL_RANK)
        return [DynamicRounding(), module]

    def _static_block(
        self, name: str, block: Block, module: nn.Module, activation: nn.Module | None, source: Grid
    ) -> Iterator[nn.Module]:
        if isinstance(block, Residual | Relu):
            raise UnsupportedPolicyError(
                f"{name} is a residual block, which cannot learn static int8: use qat with int8-dynamic, or none"
            )
        yield module
        if not isinstance(block, Layer | Convolution):
            return  # it moves integers about, and makes no new ones
        round_static(module, source)
        if isinstance(activation, nn.Tanh):
            yield from (self.static(f"{name}.sums"), activation, TanhRounding())
        elif activation is not None:
            yield from (activation, self.static(name, is_positive=True))
        else:
            yield self.static(name)
