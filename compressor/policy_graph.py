"""What a policy is, in numpy: blocks, memory and normalisation, independent of torch and of any file format.

The learner builds a `PolicyGraph` from its networks, `compressor.pipeline` writes it as a `.tflite`, and
`PolicyGraph.forward` is the float64 oracle that every file is judged against.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from compressor.layer import (
    Convolution,
    Float32Array,
    Float64Array,
    InvalidPolicyError,
    Layer,
    Observe,
    Residual,
    Shape,
    UnsupportedPolicyError,
    check_array,
    check_block,
    unobserved,
)
from compressor.memory import Memory, check_memory
from compressor.tower import Tower, check_tower, named_blocks, run_tower
from compressor.windows import FloatArray

# A sensor that spikes must not drown its neighbours: int8 activations share one range per observation.
OBSERVATION_CLIP = 10.0

# A camera's brightest pixel; the network sees it as 1.
LARGEST_PIXEL = 255

CATEGORICAL_HEADS = frozenset({"logits"})
GAUSSIAN_HEADS = frozenset({"mean", "log_std"})

_IMAGE_AXES = 3

# float32 `[N, D]` for vectors, uint8 `[N, height, width, channels]` for images.
Observations = npt.NDArray[np.float32] | npt.NDArray[np.float64] | npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class PolicyGraph:
    """A policy; construction checks that it can be run and written.

    With a shift and a scale the network sees `clip((observation - shift) * scale, -10, 10)`; without them it
    sees the observation itself. Of an image it sees `observation / 255`.

    Attributes:
        torso: blocks from the observation to a vector of features; at least one.
        heads: `logits`, or `mean` and `log_std`. A `log_std` that does not depend on the state is a layer
            with zero weights whose bias is the parameter.
        value_head: estimates the state's value, `[1, in]`; None leaves the value out of the file.
        value_torso: the value's own tower from the observation; None to read what the heads read.
        observation_shift: float32 `[D]`, usually the running mean; given with the scale or not at all.
        observation_scale: float32 `[D]`, usually one over the running standard deviation.
        memory: a cell between torso and heads; None for a policy that sees only the present.
        image_shape: height, width and channels of uint8 images; None for vectors.

    Raises:
        InvalidPolicyError: shapes do not chain, an array is empty, not float32 or not finite.
        UnsupportedPolicyError: unknown heads, blocks or activations, or a tower without layers.
    """

    torso: Tower
    heads: Mapping[str, Layer]
    value_head: Layer | None = None
    value_torso: Tower | None = None
    observation_shift: Float32Array | None = None
    observation_scale: Float32Array | None = None
    memory: Memory | None = None
    image_shape: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        _check_structure(self)
        _check_shapes(self)
        _check_normalisation(self)

    @property
    def observation_shape(self) -> Shape:
        """The shape of one observation: `(D,)`, or height, width and channels."""
        if self.image_shape is not None:
            return self.image_shape
        first = self.torso[0]
        if not isinstance(first, Layer):
            raise UnsupportedPolicyError(
                f"torso begins with {type(first).__name__}, which does not say how many features an observation has: "
                "begin with a Layer, or give image_shape"
            )
        return (first.weight.shape[-1],)

    @property
    def observation_size(self) -> int:
        """The number of values in an observation."""
        return int(np.prod(self.observation_shape))

    @property
    def state_size(self) -> int:
        """The number of values in the memory's state; 0 without a memory."""
        return 0 if self.memory is None else self.memory.state_size

    def without_value(self) -> "PolicyGraph":
        """The same policy as boards need it."""
        return replace(self, value_head=None, value_torso=None)

    def named_heads(self) -> Iterator[tuple[str, Layer]]:
        """Yield each head that reads the features, `value` where it has no tower of its own."""
        yield from self.heads.items()
        if self.value_head is not None and self.value_torso is None:
            yield "value", self.value_head

    def weighted_blocks(self) -> list[str]:
        """The names of what has weights, from the observation to the outputs; the file calls them so."""
        towers = {"torso": self.torso, "value_torso": self.value_torso or ()}
        blocks = [
            name
            for tower, row in towers.items()
            for name, block in named_blocks(tower, row)
            if isinstance(block, Layer | Convolution | Residual)
        ]
        heads = [*self.heads, *(["value"] if self.value_head is not None else [])]
        return [*blocks, *(["memory"] if self.memory is not None else []), *heads]

    def check_observations(self, observations: Observations) -> None:
        """Refuse observations that the policy's environment cannot have given.

        Raises:
            ValueError: they are not float32 `[N, D]`, or uint8 `[N, height, width, channels]`, with N at least 1.
        """
        shape, dtype = self.observation_shape, np.dtype(np.float32 if self.image_shape is None else np.uint8)
        if observations.dtype != dtype or observations.shape[1:] != shape or observations.size == 0:
            expected = ", ".join(map(str, ("N", *shape)))
            raise ValueError(
                f"observations are {observations.dtype} {list(observations.shape)}: they must be {dtype} "
                f"[{expected}], N at least 1"
            )

    def normalise(self, observations: Observations) -> Float64Array:
        """Return what the first block sees, float64 of the observations' shape."""
        exact = observations.astype(np.float64)
        if self.image_shape is not None:
            return exact / LARGEST_PIXEL
        if self.observation_shift is None or self.observation_scale is None:
            return exact
        return np.clip((exact - self.observation_shift) * self.observation_scale, -OBSERVATION_CLIP, OBSERVATION_CLIP)

    def forward(self, observations: Observations, state: FloatArray | None = None) -> dict[str, Float64Array]:
        """Run the policy in float64, the reference for every compressed file.

        Args:
            observations: `[N, D]`, or `[N, height, width, channels]`, as the environment gives them.
            state: `[N, state_size]`, what a memory remembers of each; None for zeros, as an episode begins.

        Returns:
            An array `[N, out]` per head, `value` `[N, 1]` where the policy has one, and `state_out`
            `[N, state_size]` where it has a memory.
        """
        exact = None if state is None else state.astype(np.float64)
        outputs = self.trace(self.normalise(observations), exact)
        return {name: values.astype(np.float64, copy=False) for name, values in outputs.items()}

    def trace(
        self, inputs: FloatArray, state: FloatArray | None = None, observe: Observe = unobserved
    ) -> dict[str, FloatArray]:
        """Run the network in the precision of its inputs, and show what it computes to `observe`.

        Args:
            inputs: what `normalise` gives.
            state: as in `forward`.
            observe: is called with each block's name and result, `observation` first; a result before TANH or
                an output's dequantisation is called `NAME.sums`.

        Returns:
            As `forward`.
        """
        observe("observation", inputs)
        features = run_tower("torso", self.torso, inputs, observe)
        outputs: dict[str, FloatArray] = {}
        if self.memory is not None:
            before = np.zeros((len(inputs), self.state_size), inputs.dtype) if state is None else state
            features, outputs["state_out"] = self.memory.forward(features, before)
        for name, head in self.named_heads():
            outputs[name] = head.forward(features)
        if self.value_head is not None and self.value_torso is not None:
            outputs["value"] = self.value_head.forward(run_tower("value_torso", self.value_torso, inputs, observe))
        for name, values in outputs.items():
            observe(f"{name}.sums", values)
        return outputs


def _check_structure(graph: PolicyGraph) -> None:
    if frozenset(graph.heads) not in (CATEGORICAL_HEADS, GAUSSIAN_HEADS):
        raise UnsupportedPolicyError(
            f"heads are {sorted(graph.heads)}: give 'logits' for discrete actions, or 'mean' and 'log_std'"
        )
    if graph.value_torso is not None and graph.value_head is None:
        raise UnsupportedPolicyError("value_torso has no value_head to feed: give both or neither")
    if not graph.torso or graph.value_torso == ():
        raise UnsupportedPolicyError(
            "a tower has no layers: give torso, and value_torso unless it is None, at least one"
        )
    image = graph.image_shape
    if image is not None and (len(image) != _IMAGE_AXES or not all(isinstance(n, int) and n > 0 for n in image)):
        raise InvalidPolicyError(
            f"image_shape is {tuple(image)}: it must be three positive numbers, height, width and channels"
        )


def _check_shapes(graph: PolicyGraph) -> None:
    for name, head in graph.heads.items():
        check_block(name, head)
    features = check_tower("torso", graph.torso, graph.observation_shape)
    if graph.memory is not None:
        check_memory("memory", graph.memory, features=features)
        features = graph.memory.size
    for name, head in graph.named_heads():
        check_block(name, head)
        head.output_shape(name, (features,))
    if graph.value_head is not None and graph.value_torso is not None:
        check_block("value", graph.value_head)
        own = check_tower("value_torso", graph.value_torso, graph.observation_shape)
        graph.value_head.output_shape("value", (own,))
    _check_outputs(graph)


def _check_outputs(graph: PolicyGraph) -> None:
    sizes = {name: head.bias.size for name, head in graph.heads.items()}
    if len(set(sizes.values())) > 1:
        raise InvalidPolicyError(f"heads disagree on the number of actions, {sizes}: make them equal")
    if graph.value_head is not None and graph.value_head.bias.size != 1:
        raise InvalidPolicyError(f"value_head gives {graph.value_head.bias.size} values per state: it must give one")


def _check_normalisation(graph: PolicyGraph) -> None:
    shift, scale = graph.observation_shift, graph.observation_scale
    if shift is None and scale is None:
        return
    if shift is None or scale is None:
        raise InvalidPolicyError("observation_shift and observation_scale come together: give both or neither")
    if graph.image_shape is not None:
        raise UnsupportedPolicyError("images are divided by 255: leave observation_shift and observation_scale out")
    for name, array in (("observation_shift", shift), ("observation_scale", scale)):
        check_array(name, array, rank=1)
        if array.size != graph.observation_size:
            raise InvalidPolicyError(
                f"{name} has {array.size} entries, but an observation has {graph.observation_size}"
            )
