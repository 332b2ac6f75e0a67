"""What a policy is made of: dense layers, convolutions and what stands between them, in numpy.

A block computes in the precision of its inputs: float64 for the oracle, float32 for calibration. Images are
`[N, height, width, channels]`. `compressor.policy_graph` joins blocks into a policy; nothing here knows torch or a
file format.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from compressor.windows import FloatArray, Padding, output_size, slide

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Activation = Literal["tanh", "relu"]
Shape = tuple[int, ...]

# Is shown what a block computes on its way, with the name that the file gives it.
Observe = Callable[[str, FloatArray], None]


class InvalidPolicyError(ValueError):
    """The numbers do not make a policy: a shape, a dtype or a value is wrong."""


class UnsupportedPolicyError(ValueError):
    """The policy may be sound, but no file can be written for its structure."""


def unobserved(_name: str, _values: FloatArray) -> None:
    """Observe nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A dense layer, `activation(inputs @ weight.T + bias)`; the arrays are kept, not copied.

    Attributes:
        weight: float32 `[out, in]`.
        bias: float32 `[out]`.
        activation: applied to the sum; None for a linear layer.
    """

    weight: Float32Array
    bias: Float32Array
    activation: Activation | None = None

    def forward(self, inputs: FloatArray, observe: Observe = unobserved) -> FloatArray:
        """Apply the layer: inputs `[N, in]` to outputs `[N, out]`."""
        sums = inputs @ self.weight.T.astype(inputs.dtype, copy=False) + self.bias
        return _activate(self.activation, sums, observe)

    def check(self, name: str) -> None:
        """Refuse what cannot be run; errors as `check_block`."""
        _check_affine(name, self, rank=2, shape="[out, in]")

    def output_shape(self, name: str, shape: Shape) -> Shape:
        """Return the shape of one output, `(out,)`, for one input `(in,)`; errors as `check_block`."""
        _require_rank(name, shape, rank=1, advice="put Flatten before a dense layer")
        if self.weight.shape[1] != shape[0]:
            raise InvalidPolicyError(
                f"{name}.weight is {list(self.weight.shape)}, but {shape[0]} values reach it: make it [out, {shape[0]}]"
            )
        return (self.bias.size,)


@dataclass(frozen=True, slots=True, eq=False)
class Convolution:
    """A convolution over images, as networks have it: the kernel is not flipped.

    Attributes:
        weight: float32 `[out, height, width, in]`.
        bias: float32 `[out]`.
        stride: pixels between two positions, along both axes.
        padding: "valid", or TensorFlow Lite's "same", which pads with zeros.
        activation: applied to the sum; None for a linear layer.
    """

    weight: Float32Array
    bias: Float32Array
    stride: int = 1
    padding: Padding = "valid"
    activation: Activation | None = None

    def forward(self, inputs: FloatArray, observe: Observe = unobserved) -> FloatArray:
        """Apply the layer: inputs `[N, height, width, in]` to outputs `[N, rows, columns, out]`."""
        out, height, width, _ = self.weight.shape
        seen = slide(inputs, (height, width), stride=self.stride, padding=self.padding, fill=0.0)
        patches = np.ascontiguousarray(seen.transpose(0, 1, 2, 4, 5, 3)).reshape(*seen.shape[:3], -1)
        sums = patches @ self.weight.reshape(out, -1).T.astype(inputs.dtype, copy=False) + self.bias
        return _activate(self.activation, sums, observe)

    def check(self, name: str) -> None:
        """Refuse what cannot be run; errors as `check_block`."""
        if self.padding not in get_args(Padding):
            raise UnsupportedPolicyError(f"{name} has padding {self.padding!r}: use 'valid' or 'same'")
        _require_positive(name, stride=self.stride)
        _check_affine(name, self, rank=4, shape="[out, height, width, in]")

    def output_shape(self, name: str, shape: Shape) -> Shape:
        """Return the shape of one output for one input `(height, width, in)`; errors as `check_block`."""
        _require_rank(name, shape, rank=3, advice="a convolution comes before Flatten")
        out, *window, channels = self.weight.shape
        if channels != shape[2]:
            raise InvalidPolicyError(
                f"{name}.weight is {list(self.weight.shape)}, but {shape[2]} channels reach it: "
                f"make it [out, height, width, {shape[2]}]"
            )
        rows, columns = (
            output_size(size, window=side, stride=self.stride, padding=self.padding)
            for size, side in zip(shape, window, strict=False)
        )
        if min(rows, columns) < 1:
            raise InvalidPolicyError(
                f"{name} has a window of {window}, but an image of {list(shape[:2])} reaches it: use a smaller one"
            )
        return (rows, columns, out)


@dataclass(frozen=True, slots=True)
class MaxPool:
    """The largest value in each window, with TensorFlow Lite's "same" padding, which never wins.

    Attributes:
        size: height and width of the window, in pixels.
        stride: pixels between two positions, along both axes.
    """

    size: int
    stride: int

    def forward(self, inputs: FloatArray, observe: Observe = unobserved) -> FloatArray:
        """Pool `[N, height, width, channels]` to `[N, rows, columns, channels]`."""
        del observe
        window = (self.size, self.size)
        return slide(inputs, window, stride=self.stride, padding="same", fill=-np.inf).max(axis=(4, 5))

    def check(self, name: str) -> None:
        """Refuse what cannot be run; errors as `check_block`."""
        _require_positive(name, size=self.size, stride=self.stride)

    def output_shape(self, name: str, shape: Shape) -> Shape:
        """Return the shape of one output for one input `(height, width, channels)`; errors as `check_block`."""
        _require_rank(name, shape, rank=3, advice="a pool comes before Flatten")
        rows, columns = (output_size(side, window=self.size, stride=self.stride, padding="same") for side in shape[:2])
        return (rows, columns, shape[2])


@dataclass(frozen=True, slots=True, eq=False)
class Residual:
    """Two convolutions that learn a difference: `x + second(relu(first(relu(x))))` (IMPALA's residual block).

    Attributes:
        first: "same", stride 1, without an activation of its own.
        second: the same, with as many channels out as `first` has in.
    """

    first: Convolution
    second: Convolution

    def forward(self, inputs: FloatArray, observe: Observe = unobserved) -> FloatArray:
        """Apply the block: `[N, height, width, channels]` to the same shape."""
        branch = np.maximum(self.first.forward(np.maximum(inputs, 0)), 0)
        observe("first", branch)
        difference = self.second.forward(branch)
        observe("second", difference)
        return inputs + difference

    def check(self, name: str) -> None:
        """Refuse what cannot be run; errors as `check_block`."""
        for part, convolution in (("first", self.first), ("second", self.second)):
            convolution.check(f"{name}.{part}")
            if (convolution.padding, convolution.stride, convolution.activation) != ("same", 1, None):
                raise UnsupportedPolicyError(
                    f"{name}.{part} has padding {convolution.padding!r}, stride {convolution.stride} and activation "
                    f"{convolution.activation!r}: a residual's must be 'same', 1 and None"
                )

    def output_shape(self, name: str, shape: Shape) -> Shape:
        """Return the shape of one input, which is that of an output; errors as `check_block`."""
        after = self.second.output_shape(f"{name}.second", self.first.output_shape(f"{name}.first", shape))
        if after != shape:
            raise InvalidPolicyError(
                f"{name} cannot add {list(after)} to {list(shape)}: give second {shape[2]} channels out"
            )
        return shape


@dataclass(frozen=True, slots=True)
class Relu:
    """`max(x, 0)` between blocks that have none themselves."""

    def forward(self, inputs: FloatArray, observe: Observe = unobserved) -> FloatArray:
        """Rectify an array of any shape."""
        del observe
        return np.maximum(inputs, 0)

    def check(self, name: str) -> None:
        """Accept: there is nothing to be wrong."""

    def output_shape(self, _name: str, shape: Shape) -> Shape:
        """Return the shape as it is."""
        return shape


@dataclass(frozen=True, slots=True)
class Flatten:
    """An image as a vector, channels last: `[N, H, W, C]` to `[N, H * W * C]`."""

    def forward(self, inputs: FloatArray, observe: Observe = unobserved) -> FloatArray:
        """Flatten all but the batch."""
        del observe
        return inputs.reshape(len(inputs), -1)

    def check(self, name: str) -> None:
        """Accept: there is nothing to be wrong."""

    def output_shape(self, _name: str, shape: Shape) -> Shape:
        """Return `(H * W * C,)`."""
        return (int(np.prod(shape)),)


Block = Layer | Convolution | MaxPool | Residual | Relu | Flatten


def check_block(name: str, block: Block) -> None:
    """Refuse a block that cannot be run, calling it by its name in the policy.

    Raises:
        InvalidPolicyError: an array has a wrong shape or dtype or is not finite, or a size is not positive.
        UnsupportedPolicyError: no block of ours, or an activation or padding is unknown.
    """
    if not isinstance(block, get_args(Block)):
        known = ", ".join(kind.__name__ for kind in get_args(Block))
        raise UnsupportedPolicyError(f"{name} is a {type(block).__name__}, and no file can hold one: use {known}")
    block.check(name)


def check_array(name: str, array: Float32Array, *, rank: int) -> None:
    """Refuse an array that is empty, not float32, not of the rank or not finite.

    Raises:
        InvalidPolicyError: with the array's name and what it should be.
    """
    if array.dtype != np.float32 or array.ndim != rank or array.size == 0:
        raise InvalidPolicyError(
            f"{name} is {array.dtype} {list(array.shape)}: it must be float32, of rank {rank} and not empty"
        )
    if not np.isfinite(array).all():
        raise InvalidPolicyError(f"{name} holds NaN or infinity: training has diverged, keep the version before")


def _activate(activation: Activation | None, sums: FloatArray, observe: Observe) -> FloatArray:
    if activation == "tanh":
        observe("sums", sums)
        return np.tanh(sums)
    return np.maximum(sums, 0) if activation == "relu" else sums


def _check_affine(name: str, layer: Layer | Convolution, *, rank: int, shape: str) -> None:
    if layer.activation not in (None, *get_args(Activation)):
        raise UnsupportedPolicyError(f"{name} has activation {layer.activation!r}: use 'tanh', 'relu' or None")
    check_array(f"{name}.weight", layer.weight, rank=rank)
    check_array(f"{name}.bias", layer.bias, rank=1)
    if layer.bias.size != layer.weight.shape[0]:
        raise InvalidPolicyError(
            f"{name}.bias has {layer.bias.size} entries for {layer.weight.shape[0]} rows of weight: "
            f"weight must be {shape} and bias [out]"
        )


def _require_rank(name: str, shape: Shape, *, rank: int, advice: str) -> None:
    if len(shape) != rank:
        expected = "a vector" if rank == 1 else "an image"
        raise InvalidPolicyError(f"{name} needs {expected}, but {list(shape)} reaches it: {advice}")


def _require_positive(name: str, **sizes: int) -> None:
    for what, size in sizes.items():
        if size < 1:
            raise InvalidPolicyError(f"{name} has {what} {size}: it must be at least 1")
