"""Torch modules that round what a runtime would round, on the very grids of the file (fake quantisation).

Gradients pass as if nothing had been rounded: the straight-through estimator (Bengio et al. 2013,
https://arxiv.org/abs/1308.3432). The grids are those of Jacob et al. 2018 (https://arxiv.org/abs/1712.05877), as
`quantization.py` makes them for the file.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compressor.calibration import Range
from compressor.policy_graph import LARGEST_PIXEL
from compressor.quantization import LARGEST_BIAS, LARGEST_INT8, SMALLEST_INT8, SMALLEST_SCALE

_SMALLEST_SCALE: Final = float(SMALLEST_SCALE)
_STEPS: Final = LARGEST_INT8 - SMALLEST_INT8
_IMAGE_RANK: Final = 4
_MOMENTUM: Final = 0.002
"""Of a range that shrinks: it holds all that was seen of late, for what is rare may be what matters most."""


class WeightRounding(nn.Module):
    """int8 weights, with a scale for each output or one for all; a parametrisation of a layer's `weight`.

    Args:
        is_per_tensor: One scale for all.
    """

    def __init__(self, *, is_per_tensor: bool) -> None:
        super().__init__()
        self._is_per_tensor = is_per_tensor

    def forward(self, weight: Tensor) -> Tensor:
        """Round, `[out, ...]`."""
        scales = weight_scales(weight)
        if self._is_per_tensor:
            scales = scales.amax().expand_as(scales)
        scale = scales.reshape(-1, *[1] * (weight.ndim - 1))
        return _straight_through(weight, (weight / scale).round() * scale)


class BiasRounding(nn.Module):
    """A bias as the integer that is added to products of int8; a parametrisation of a layer's `bias`.

    Args:
        layer: Whose bias it is; its weight is rounded.
        source: What rounds the layer's inputs.
    """

    def __init__(self, layer: nn.Module, source: "Grid") -> None:
        super().__init__()
        self._layer_and_source = [(layer, source)]  # hidden from torch: they are modules of their own elsewhere

    def forward(self, bias: Tensor) -> Tensor:
        """Round, `[out]`: a unit is the inputs' scale times the weights', or what makes the bias fit into int32."""
        ((layer, source),) = self._layer_and_source
        unit = source.scale * weight_scales(layer.get_parameter("parametrizations.weight.original"))
        unit = unit.clamp_min(_SMALLEST_SCALE).maximum(bias.detach().abs() / LARGEST_BIAS)
        return _straight_through(bias, (bias / unit).round() * unit)


class DynamicRounding(nn.Module):
    """What a layer with int8 weights does to its float inputs: each observation has a grid of its own."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Round vectors `[..., F]` or images `[N, C, H, W]`."""
        axes = (1, 2, 3) if inputs.ndim == _IMAGE_RANK else (-1,)
        known = inputs.detach()
        low, high = known.amin(axes, keepdim=True), known.amax(axes, keepdim=True)
        return _on_grid(inputs, low.clamp_max(0), high.clamp_min(0))


class StaticRounding(nn.Module):
    """A tensor on the grid of its range; in training that grows at once to what is seen, and shrinks slowly.

    Args:
        name: Of the tensor, as calibration calls it.
        seen: The range to begin with.
        is_positive: Behind a ReLU.
    """

    low: Tensor
    high: Tensor

    def __init__(self, name: str, seen: Range, *, is_positive: bool = False) -> None:
        super().__init__()
        self.name = name
        self.register_buffer("low", torch.tensor(0.0 if is_positive else seen.low))
        self.register_buffer("high", torch.tensor(seen.high))

    @property
    def scale(self) -> Tensor:
        """A step of the grid."""
        return _scale(self.low.clamp_max(0), self.high.clamp_min(0))

    @property
    def range(self) -> Range:
        """What the file is to have."""
        return Range(float(self.low), float(self.high))

    def forward(self, values: Tensor) -> Tensor:
        """Round; what is out of range is cut off, and learns nothing."""
        if self.training:
            with torch.no_grad():
                low, high = values.min(), values.max()
                self.low.copy_(torch.minimum(low, self.low + _MOMENTUM * (low - self.low)))
                self.high.copy_(torch.maximum(high, self.high + _MOMENTUM * (high - self.high)))
        return _on_grid(values, self.low.clamp_max(0), self.high.clamp_min(0))


class TanhRounding(nn.Module):
    """The grid that the format fixes for a TANH's results: [-1, 127/128]."""

    scale: Final = 1 / 128

    def forward(self, values: Tensor) -> Tensor:
        """Round."""
        grid = (values / self.scale).round().clamp(SMALLEST_INT8, LARGEST_INT8) * self.scale
        return _straight_through(values, grid)


class Pixels:
    """The grid of a camera's bytes, which the network sees as 0 to 1."""

    scale: Final = 1 / LARGEST_PIXEL


Grid = StaticRounding | TanhRounding | Pixels

ROUNDINGS: Final = (DynamicRounding, StaticRounding, TanhRounding)
"""Modules that stand between a policy's own, and in no file."""


def round_weight(layer: nn.Module, *, name: str = "weight", is_per_tensor: bool = False) -> None:
    """Have a layer compute with int8 weights; what it learns are the floats behind them."""
    parametrize.register_parametrization(layer, name, WeightRounding(is_per_tensor=is_per_tensor))


def round_static(layer: nn.Module, source: "Grid") -> None:
    """Have a layer compute in integers: int8 inputs and weights, and a bias in the unit of their products."""
    round_weight(layer)
    parametrize.register_parametrization(layer, "bias", BiasRounding(layer, source))


def weight_scales(weight: Tensor) -> Tensor:
    """The step of each output's weights, `[out]`."""
    return (weight.detach().abs().flatten(1).amax(dim=1) / LARGEST_INT8).clamp_min(_SMALLEST_SCALE)


def _scale(low: Tensor, high: Tensor) -> Tensor:
    step = (high - low) / _STEPS
    return torch.where(step > _SMALLEST_SCALE, step, 1 / _STEPS)


def _on_grid(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Values on the grid of a range with 0.0 on it, as `quantization.quantize_activation` makes it."""
    scale = _scale(low, high)
    zero_point = (SMALLEST_INT8 - low / scale).round()
    integers = (values / scale + zero_point).clamp(SMALLEST_INT8, LARGEST_INT8)  # cut off: no gradient from beyond
    return (_straight_through(integers, integers.round()) - zero_point) * scale


def _straight_through(values: Tensor, rounded: Tensor) -> Tensor:
    return values + (rounded - values).detach()
