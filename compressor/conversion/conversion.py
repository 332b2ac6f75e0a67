"""From somebody's own torch module to a policy file: read this first.

    module --check--> PolicyModule --litert-torch, for 2 and for 3 rows--> LoweredGraph --write--> CompressedPolicy

litert-torch knows torch's operators, but its file is for the one batch that it was shown, and says nothing of what
boards ask of a policy. So it is not given to boards: what it computes is read, its batch is opened by comparing two
conversions, and our own writer writes it, as it writes our policies.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from compressor.conversion.litert import lower
from compressor.conversion.lowered_graph import LoweredGraph, read_graph
from compressor.conversion.policy_module import PolicyModule
from compressor.conversion.writing import write_graph
from compressor.layer import Float64Array, Shape, UnsupportedPolicyError
from compressor.pipeline import CompressedPolicy
from compressor.policy_graph import Observations
from compressor.recipe import CompressionRecipe, float32
from compressor.run_file import run_model

_ROWS = (2, 3)
"""Two batches, to see by comparison where the batch stands; not 1, which looks like any side of length 1."""

_TOLERANCE = 1e-3
"""What float32 in another order may change, as a share of the largest output; tanh and GELU are approximated."""


@dataclass(frozen=True, slots=True)
class ConvertedModule:
    """A module that can be written as a policy file.

    Attributes:
        module: what was converted; the reference for every file of it.
        graph: what it computes.
        converter_ms: milliseconds in litert-torch.
    """

    module: PolicyModule
    graph: LoweredGraph
    converter_ms: float

    def forward(self, observations: Observations) -> dict[str, Float64Array]:
        """Run the module in torch, in float32.

        Args:
            observations: float32 `[N, D]` or uint8 `[N, height, width, channels]`.

        Returns:
            An array `[N, out]` per head.
        """
        return self.module.run(observations)

    def write(self, recipe: CompressionRecipe, *, metadata: Mapping[str, object]) -> CompressedPolicy:
        """Write the file.

        Args:
            recipe: how weights are stored: a precision with float activations.
            metadata: what the file says of itself, as for `compress`.

        Raises:
            UnsupportedPolicyError: the recipe trains, calibrates, or keeps layers.
            InvalidPolicyError: a weight does not fit into the precision.
        """
        _require_storage(recipe)
        started_s = time.monotonic()
        model = write_graph(self.graph, recipe, metadata=metadata)
        export_ms = 1e3 * (time.monotonic() - started_s)
        return CompressedPolicy(model, recipe, export_ms, hashlib.sha256(model).hexdigest())


def convert_module(
    module: object, *, observation_shape: Shape, dtype: str, heads: Mapping[str, int]
) -> ConvertedModule:
    """Convert a module with its weights; it is put into evaluation mode, on the CPU.

    Args:
        module: a `torch.nn.Module`. It takes float32 `[N, D]`, or images as float32 `[N, height, width, channels]` from
            0 to 255, for any N, and gives the logits `[N, actions]`, or a dict of the heads by name. `log_std` may be
            `[actions]`.
        observation_shape: of one observation: `(D,)`, or height, width and channels.
        dtype: of observations: `float32`, or `uint8` for images.
        heads: the width of each: `{"logits": 2}`, or `{"mean": 3, "log_std": 3}`.

    Raises:
        MissingConverterError: the extra `convert` is not installed.
        InvalidPolicyError: weights or outputs are not finite, or of another shape or dtype than a policy's.
        UnsupportedPolicyError: a layer cannot be converted, or what it does depends on the batch.
    """
    policy = PolicyModule(module, heads, is_image=dtype == "uint8")
    samples = _samples(max(_ROWS), observation_shape, dtype)
    policy.require_policy(samples)
    started_s = time.monotonic()
    two, three = (lower(policy, policy.as_input(samples[:rows])) for rows in _ROWS)
    converter_ms = 1e3 * (time.monotonic() - started_s)
    converted = ConvertedModule(policy, read_graph(two, three, outputs=policy.run(samples)), converter_ms)
    _require_same(converted, samples)
    return converted


def _samples(rows: int, shape: Shape, dtype: str) -> Observations:
    """What the checker on a board tries a policy with: noise."""
    rng = np.random.default_rng(0)
    if dtype == "uint8":
        return rng.integers(0, 256, (rows, *shape), np.uint8)
    return rng.standard_normal((rows, *shape), np.float32)


def _require_same(converted: ConvertedModule, samples: Observations) -> None:
    """Run the file, for one observation and for several: it has to be the module."""
    model = converted.write(float32(), metadata={}).model
    for rows in (samples, samples[:1]):
        expected, actual = converted.forward(rows), run_model(model, rows)
        for name, values in expected.items():
            error = float(np.abs(actual[name] - values).max())
            if not error <= _TOLERANCE * (1 + float(np.abs(values).max())):
                raise UnsupportedPolicyError(
                    f"the converted {name} are off by {error:.2g} for {len(rows)} observation(s): litert-torch has "
                    "misread a layer; please report the module"
                )


def _require_storage(recipe: CompressionRecipe) -> None:
    if recipe.needs_training or recipe.needs_calibration or recipe.kept:
        raise UnsupportedPolicyError(
            f"{recipe} trains, calibrates or keeps layers, which only EdgeRL's own networks can: convert with float32, "
            "float16, int8-dynamic, int8-dynamic+per-tensor or int4-dynamic"
        )
