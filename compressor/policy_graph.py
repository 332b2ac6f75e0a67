"""What a policy is, in numpy: layers and normalisation, independent of torch and of any file format.

The learner builds a `PolicyGraph` from its networks, `compressor.pipeline` writes it as a `.tflite`, and
`PolicyGraph.forward` is the float64 oracle that every file is judged against.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from compressor.layer import (
    Float32Array,
    Float64Array,
    InvalidPolicyError,
    Layer,
    UnsupportedPolicyError,
    check_array,
    check_layer,
)

# A sensor that spikes must not drown its neighbours: int8 activations share one range per observation.
OBSERVATION_CLIP = 10.0

CATEGORICAL_HEADS = frozenset({"logits"})
GAUSSIAN_HEADS = frozenset({"mean", "log_std"})


@dataclass(frozen=True, slots=True, eq=False)
class PolicyGraph:
    """A multilayer-perceptron policy; construction checks that it can be run and written.

    With a shift and a scale the network sees `clip((observation - shift) * scale, -10, 10)`; without them it
    sees the observation itself.

    Attributes:
        torso: layers from the observation to the features that the heads read; at least one.
        heads: `logits`, or `mean` and `log_std`. A `log_std` that does not depend on the state is a layer
            with zero weights whose bias is the parameter.
        value_head: estimates the state's value, `[1, in]`; None leaves the value out of the file.
        value_torso: the value's own tower from the observation; None to read the torso's features.
        observation_shift: float32 `[D]`, usually the running mean; given with the scale or not at all.
        observation_scale: float32 `[D]`, usually one over the running standard deviation.

    Raises:
        InvalidPolicyError: shapes do not chain, an array is empty, not float32 or not finite.
        UnsupportedPolicyError: unknown heads or activations, or a tower without layers.
    """

    torso: tuple[Layer, ...]
    heads: Mapping[str, Layer]
    value_head: Layer | None = None
    value_torso: tuple[Layer, ...] | None = None
    observation_shift: Float32Array | None = None
    observation_scale: Float32Array | None = None

    def __post_init__(self) -> None:
        _check_structure(self)
        for name, layer in self.named_layers():
            check_layer(name, layer)
        _check_shapes(self)
        _check_normalisation(self)

    @property
    def observation_size(self) -> int:
        """D, the number of features in an observation."""
        return self.torso[0].weight.shape[1]

    def named_layers(self) -> Iterator[tuple[str, Layer]]:
        """Yield every layer with the name that errors and tensors use, in the order of the file."""
        yield from _named_tower("torso", self.torso)
        yield from self.heads.items()
        yield from _named_tower("value_torso", self.value_torso or ())
        if self.value_head is not None:
            yield "value", self.value_head

    def normalise(self, observations: Float32Array | Float64Array) -> Float64Array:
        """Return what the first layer sees, float64 `[N, D]`, for observations `[N, D]`."""
        exact = observations.astype(np.float64)
        if self.observation_shift is None or self.observation_scale is None:
            return exact
        return np.clip((exact - self.observation_shift) * self.observation_scale, -OBSERVATION_CLIP, OBSERVATION_CLIP)

    def forward(self, observations: Float32Array | Float64Array) -> dict[str, Float64Array]:
        """Run the policy in float64, the reference for every compressed file.

        Args:
            observations: `[N, D]`, as the environment gives them.

        Returns:
            An array `[N, out]` per head, and `value` `[N, 1]` where the policy has one.
        """
        normalised = self.normalise(observations)
        features = _forward_tower(self.torso, normalised)
        outputs = {name: head.forward(features) for name, head in self.heads.items()}
        if self.value_head is not None:
            own = features if self.value_torso is None else _forward_tower(self.value_torso, normalised)
            outputs["value"] = self.value_head.forward(own)
        return outputs


def _named_tower(name: str, tower: tuple[Layer, ...]) -> Iterator[tuple[str, Layer]]:
    return ((f"{name}[{index}]", layer) for index, layer in enumerate(tower))


def _forward_tower(tower: tuple[Layer, ...], inputs: Float64Array) -> Float64Array:
    for layer in tower:
        inputs = layer.forward(inputs)
    return inputs


def _check_structure(graph: PolicyGraph) -> None:
    if frozenset(graph.heads) not in (CATEGORICAL_HEADS, GAUSSIAN_HEADS):
        raise UnsupportedPolicyError(
            f"heads are {sorted(graph.heads)}: give 'logits' for discrete actions, or 'mean' and 'log_std'"
        )
    if not graph.torso or graph.value_torso == ():
        raise UnsupportedPolicyError(
            "a tower has no layers: give torso, and value_torso unless it is None, at least one"
        )
    if graph.value_torso is not None and graph.value_head is None:
        raise UnsupportedPolicyError("value_torso has no value_head to feed: give both or neither")


def _check_shapes(graph: PolicyGraph) -> None:
    features = _check_tower("torso", graph.torso, graph.observation_size)
    for name, head in graph.heads.items():
        _check_width(name, head, features)
    if graph.value_torso is not None:
        features = _check_tower("value_torso", graph.value_torso, graph.observation_size)
    if graph.value_head is not None:
        _check_width("value", graph.value_head, features)
    _check_outputs(graph)


def _check_tower(name: str, tower: tuple[Layer, ...], width: int) -> int:
    for layer_name, layer in _named_tower(name, tower):
        _check_width(layer_name, layer, width)
        width = layer.bias.size
    return width


def _check_width(name: str, layer: Layer, width: int) -> None:
    if layer.weight.shape[1] != width:
        raise InvalidPolicyError(
            f"{name}.weight is {list(layer.weight.shape)}, but {width} values reach it: make it [out, {width}]"
        )


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
    for name, array in (("observation_shift", shift), ("observation_scale", scale)):
        check_array(name, array, rank=1)
        if array.size != graph.observation_size:
            raise InvalidPolicyError(
                f"{name} has {array.size} entries, but an observation has {graph.observation_size}"
            )
