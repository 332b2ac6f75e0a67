"""From an observation to features: one function for each kind of network, all of them `nn.Sequential`."""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import nn

from cloud_learner.config import NetworkKind
from compressor.torch_modules import FlattenChannelsLast, ResidualBlock, SamePool
from fleet_protocol.exit_codes import ExitCode, ProgramError

IMAGE_AXES: Final = 3

_NATURE_LAYERS: Final = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Channels, window and stride of each convolution."""
_NATURE_FEATURES: Final = 512
_IMPALA_CHANNELS: Final = (16, 32, 32)
_IMPALA_FEATURES: Final = 256
_GAIN: Final = math.sqrt(2)


def make_encoder(kind: NetworkKind, shape: Sequence[int], hidden_sizes: Sequence[int]) -> tuple[nn.Sequential, int]:
    """The network from one observation to features, and how many features it gives.

    Args:
        kind: As in the settings.
        shape: Of what the policy sees: `[D]`, or `[height, width, channels]`.
        hidden_sizes: Widths of an mlp.

    Raises:
        ProgramError: Such a network cannot read such observations.
    """
    is_image = len(shape) == IMAGE_AXES
    if kind == "auto":
        kind = "nature-cnn" if is_image else "mlp"
    if len(shape) not in (1, IMAGE_AXES) or is_image != (kind != "mlp"):
        advice = "nature-cnn or impala-resnet" if is_image else "mlp"
        raise ProgramError(
            ExitCode.CONFIG, f"network {kind!r} cannot read observations of shape {list(shape)}: use {advice}"
        )
    match kind:
        case "nature-cnn":
            return nature_cnn(shape), _NATURE_FEATURES
        case "impala-resnet":
            return impala_resnet(shape), _IMPALA_FEATURES
        case _:
            return mlp(shape[0], hidden_sizes), hidden_sizes[-1]


def mlp(size: int, hidden_sizes: Sequence[int]) -> nn.Sequential:
    """Dense tanh layers: `[..., D]` to `[..., hidden_sizes[-1]]`."""
    layers: list[nn.Module] = []
    for width in hidden_sizes:
        layers += [linear(size, width, gain=_GAIN), nn.Tanh()]
        size = width
    return nn.Sequential(*layers)


def nature_cnn(shape: Sequence[int]) -> nn.Sequential:
    """Three convolutions and a dense layer (Mnih et al. 2015, https://doi.org/10.1038/nature14236).

    Args:
        shape: Height, width and channels.

    Raises:
        ProgramError: The image is too small for the windows.
    """
    *sides, channels = shape
    layers: list[nn.Module] = []
    for out, window, stride in _NATURE_LAYERS:
        layers += [_convolution(channels, out, window=window, stride=stride), nn.ReLU(inplace=True)]
        sides, channels = [(side - window) // stride + 1 for side in sides], out
    if min(sides) < 1:
        raise ProgramError(
            ExitCode.CONFIG,
            f"nature-cnn needs images of 36x36 pixels or more, got {shape[0]}x{shape[1]}: use --network impala-resnet",
        )
    layers += [FlattenChannelsLast(), linear(math.prod(sides) * channels, _NATURE_FEATURES, gain=_GAIN)]
    return _channels_last(*layers, nn.ReLU(inplace=True))


def impala_resnet(shape: Sequence[int]) -> nn.Sequential:
    """IMPALA's deep network: three stages of a convolution, a pool and two residual blocks, and a dense layer.

    From "IMPALA" (Espeholt et al. 2018, https://arxiv.org/abs/1802.01561, figure 3), without its LSTM.

    Args:
        shape: Height, width and channels; any size.
    """
    *sides, channels = shape
    layers: list[nn.Module] = []
    for out in _IMPALA_CHANNELS:
        layers += [_convolution(channels, out, window=3, padding=1), SamePool(), _residual(out), _residual(out)]
        sides, channels = [math.ceil(side / SamePool.stride) for side in sides], out
    dense = linear(math.prod(sides) * channels, _IMPALA_FEATURES, gain=_GAIN)
    return _channels_last(*layers, nn.ReLU(), FlattenChannelsLast(), dense, nn.ReLU(inplace=True))


def linear(inputs: int, outputs: int, *, gain: float) -> nn.Linear:
    """A dense layer with orthogonal weights of this gain, and without bias at first."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def _convolution(inputs: int, outputs: int, *, window: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    return _initialised(nn.Conv2d(inputs, outputs, window, stride, padding))


def _residual(channels: int) -> ResidualBlock:
    block = ResidualBlock(channels)
    for layer in (block.first, block.second):
        assert isinstance(layer, nn.Conv2d)  # noqa: S101 - nothing rounds in a new block
        _initialised(layer)
    return block


def _initialised(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.orthogonal_(layer.weight, _GAIN)
    assert layer.bias is not None  # noqa: S101 - torch's type says it may be
    nn.init.zeros_(layer.bias)
    return layer


def _channels_last(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload] - torch's stub wants a device too
