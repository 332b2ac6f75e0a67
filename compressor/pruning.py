"""Take the units away that matter least; what is left is a smaller policy of dense arrays, and no kernel has to skip.

Which units go together is told by torch-pruning's dependency graph (Fang et al. 2023, https://arxiv.org/abs/2301.12900):
a channel that residual blocks add to, or a unit that several heads read, goes in all of them or in none. Observations,
the outputs of heads and the size of a memory stay: boards know them. What the policy loses is learned back by
distillation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from compressor.layer import Convolution, Layer, UnsupportedPolicyError
from compressor.policy_graph import PolicyGraph
from compressor.torch_modules import FlattenChannelsLast
from compressor.torch_policy import TorchPolicy
from compressor.tower import named_blocks

MULTIPLE: Final = 8
"""Of widths that are left: XNNPACK's kernels take channels by the eight."""


def prune(graph: PolicyGraph, share: float) -> PolicyGraph:
    """Return the policy without the units of least weight, before anything is learned back.

    Args:
        graph: The policy.
        share: Of each layer's units, 0 to 1; what is left is rounded to a multiple of 8, and never less than 8.

    Raises:
        UnsupportedPolicyError: So large a share leaves less than a unit of some layer.
    """
    import torch_pruning  # noqa: PLC0415 - a second to import, and only this needs it

    for name, block in named_blocks("torso", graph.torso):
        width = block.bias.size if isinstance(block, Layer | Convolution) else 1 / (1 - share)
        if width * (1 - share) < 1:
            raise UnsupportedPolicyError(
                f"prune({share:g}) leaves less than one of the {width} units of {name}: give a smaller share"
            )
    policy = TorchPolicy(graph)
    dtype = torch.float32 if graph.image_shape is None else torch.uint8
    seen = policy.normalise(torch.zeros(2, *graph.observation_shape, dtype=dtype))
    with _flattened_as_torch_does(policy, seen):
        traced = _Traced(policy)
        torch_pruning.pruner.BasePruner(
            traced,
            seen,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio_dict={layer: _ratio(layer, share) for layer in traced.narrowed()},
            ignored_layers=list(traced.ends),
        ).step()
    if policy.memory is not None:
        policy.memory.cell.weight_ih = nn.Parameter(traced.ends[0].get_parameter("weight").detach())
    return policy.to_graph()


def _ratio(layer: nn.Module, share: float) -> float:
    """The share that leaves a multiple of eight; half a unit more, so that rounding down comes to it."""
    width = layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
    assert isinstance(width, int)  # noqa: S101 - torch's attributes are untyped
    left = max(MULTIPLE, MULTIPLE * round(width * (1 - share) / MULTIPLE))
    return max(0.0, 1 - (left + 0.5) / width)


class _Traced(nn.Module):
    """A policy as the dependency graph can follow it: towers, and dense layers at their ends.

    A memory is an end too: the matrix by which it reads its features.
    """

    def __init__(self, policy: TorchPolicy) -> None:
        super().__init__()
        self.towers = nn.ModuleList([policy.torso])
        ends: list[nn.Module] = [] if policy.memory is not None else list(policy.heads.values())
        if policy.memory is not None:
            weight = policy.memory.cell.weight_ih
            reading = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            reading.weight = nn.Parameter(weight.detach().clone())
            ends = [reading]
        elif policy.value is not None and policy.value_torso is None:
            ends.append(policy.value)
        self._shared = len(ends)
        if policy.value_torso is not None and policy.value is not None:
            self.towers.append(policy.value_torso)
            ends.append(policy.value)
        self.ends = nn.ModuleList(ends)

    def narrowed(self) -> Iterator[nn.Module]:
        """The layers whose units may go."""
        return (module for module in self.towers.modules() if isinstance(module, nn.Linear | nn.Conv2d))

    def forward(self, seen: Tensor) -> list[Tensor]:
        """All outputs."""
        features = self.towers[0](seen)
        own = self.towers[1](seen) if len(self.towers) > 1 else features
        return [end(features if index < self._shared else own) for index, end in enumerate(self.ends)]


@contextmanager
def _flattened_as_torch_does(policy: TorchPolicy, seen: Tensor) -> Iterator[None]:
    """Meanwhile images are flattened channels first, the order that the dependency graph knows."""
    places = [_turn(tower, seen) for tower in (policy.torso, policy.value_torso) if tower is not None]
    yield
    for place in places:
        if place is not None:
            place.turn_back()


class _Turned:
    """A flattening in a tower, and the dense layer behind it."""

    def __init__(self, tower: nn.Sequential, index: int, rows: int, columns: int) -> None:
        self._tower, self._index, self._shape = tower, index, (rows, columns)
        layer: Any = tower[index + 1]
        weight = layer.weight.detach()
        layer.weight = nn.Parameter(weight.unflatten(1, (rows, columns, -1)).permute(0, 3, 1, 2).flatten(1))
        tower[index] = nn.Flatten()

    def turn_back(self) -> None:
        layer: Any = self._tower[self._index + 1]
        weight = layer.weight.detach()
        layer.weight = nn.Parameter(weight.unflatten(1, (-1, *self._shape)).permute(0, 2, 3, 1).flatten(1))
        self._tower[self._index] = FlattenChannelsLast()


def _turn(tower: nn.Sequential, seen: Tensor) -> _Turned | None:
    for index, module in enumerate(tower):
        if isinstance(module, FlattenChannelsLast):
            return _Turned(tower, index, *seen.shape[2:])
        with torch.no_grad():
            seen = module(seen)
    return None
