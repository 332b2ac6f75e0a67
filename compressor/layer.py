"""A dense layer in numpy, and what must hold for it to be run and written.

`compressor.policy_graph` joins layers into a policy; nothing here knows torch or a file format.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Activation = Literal["tanh", "relu"]


class InvalidPolicyError(ValueError):
    """The numbers do not make a policy: a shape, a dtype or a value is wrong."""


class UnsupportedPolicyError(ValueError):
    """The policy may be sound, but no file can be written for its structure."""


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

    def forward(self, inputs: Float64Array) -> Float64Array:
        """Apply the layer in float64: inputs `[N, in]` to outputs `[N, out]`."""
        sums = inputs @ self.weight.T.astype(np.float64) + self.bias
        if self.activation == "tanh":
            return np.tanh(sums)
        return np.maximum(sums, 0.0) if self.activation == "relu" else sums


def check_layer(name: str, layer: Layer) -> None:
    """Refuse a layer that cannot be run, calling it by its name in the policy.

    Raises:
        InvalidPolicyError: weight and bias are not float32 `[out, in]` and `[out]`, or not finite.
        UnsupportedPolicyError: the activation is unknown.
    """
    if layer.activation not in (None, *get_args(Activation)):
        raise UnsupportedPolicyError(f"{name} has activation {layer.activation!r}: use 'tanh', 'relu' or None")
    check_array(f"{name}.weight", layer.weight, rank=2)
    check_array(f"{name}.bias", layer.bias, rank=1)
    if layer.bias.size != layer.weight.shape[0]:
        raise InvalidPolicyError(
            f"{name}.bias has {layer.bias.size} entries for {layer.weight.shape[0]} rows of weight: "
            "weight must be [out, in] and bias [out]"
        )


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
