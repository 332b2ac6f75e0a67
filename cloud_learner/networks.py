"""The learner's network: encoder, memory, policy and value.

    vectors:             observation --> tanh tower --> policy     and a tower of its own --> value
    images or a memory:  observation --> encoder --> [memory] --> policy and value

Vectors are normalised by running moments, images divided by 255; both happen in the policy file too.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cloud_learner.action_head import make_action_head
from cloud_learner.config import Architecture, MemoryKind, NetworkKind
from cloud_learner.encoders import IMAGE_AXES, linear, make_encoder
from cloud_learner.normalisation import ObservationNormaliser, PixelScaler
from compressor import Layer, PolicyGraph
from compressor.torch_modules import VECTORS_IN_A_STATE, RecurrentMemory
from compressor.torch_policy import as_numpy, export_layer, export_memory, export_tower
from fleet_protocol.spaces import BoxSpec, SpaceSpec, head_size, stacked_shape

_LOG_STD_RANGE = (-5.0, 1.0)


def state_size(kind: MemoryKind, memory_size: int) -> int:
    """H, the numbers in a state; 0 without a memory."""
    return 0 if kind == "none" else VECTORS_IN_A_STATE[kind] * memory_size


class PolicyOutput(NamedTuple):
    """What the network says about observations.

    Attributes:
        params: Logits `[..., A]`, or means and log standard deviations, one after the other `[..., 2 A]`.
        values: `[...]`.
        states: The memory's state after each row, `[T, B, H]`; None without a memory.
    """

    params: Tensor
    values: Tensor
    states: Tensor | None

    def detach(self) -> "PolicyOutput":
        """The same numbers without their history."""
        states = None if self.states is None else self.states.detach()
        return PolicyOutput(self.params.detach(), self.values.detach(), states)


class ActorCritic(nn.Module):
    """Policy and value of one task.

    Args:
        observation: The observation space: a vector or an image.
        action: The action space.
        hidden_sizes: Widths of an mlp's layers.
        network: Kind of encoder.
        memory: Kind of memory.
        memory_size: Its width.
        frame_stack: Observations that make what the policy sees.

    Raises:
        ProgramError: The encoder cannot read such observations.
    """

    def __init__(
        self,
        observation: BoxSpec,
        action: SpaceSpec,
        hidden_sizes: Sequence[int],
        *,
        network: NetworkKind = "auto",
        memory: MemoryKind = "none",
        memory_size: int = 128,
        frame_stack: int = 1,
    ) -> None:
        super().__init__()
        self._shape = stacked_shape(observation, frame_stack)
        self.action_head = make_action_head(action)
        is_image, has_memory = len(self._shape) == IMAGE_AXES, memory != "none"
        self.policy_tower, features = make_encoder(network, self._shape, hidden_sizes)
        shares_encoder = is_image or has_memory
        self.value_tower = None if shares_encoder else make_encoder(network, self._shape, hidden_sizes)[0]
        self.normaliser = PixelScaler() if is_image else ObservationNormaliser(self._shape[0])
        self.memory = None if memory == "none" else RecurrentMemory(memory, features, memory_size)
        features = memory_size if has_memory else features
        self.policy_head = linear(features, head_size(action), gain=0.01)
        self.value_head = linear(features, 1, gain=1.0)
        if self.action_head.kind == "gaussian":
            self.log_std = nn.Parameter(torch.zeros(head_size(action)))

    @classmethod
    def of(cls, architecture: Architecture, spaces: tuple[BoxSpec, SpaceSpec], *, frame_stack: int) -> "ActorCritic":
        """The network of a run; errors as those of the class."""
        return cls(
            *spaces,
            architecture.hidden_sizes,
            network=architecture.network,
            memory=architecture.memory,
            memory_size=architecture.memory_size,
            frame_stack=frame_stack,
        )

    def forward(
        self, observations: Tensor, state: Tensor | None = None, is_first: Tensor | None = None
    ) -> PolicyOutput:
        """Evaluate observations.

        Args:
            observations: float32 `[..., D]` or uint8 `[..., height, width, channels]`, frames stacked; with a memory
                the leading axes are `[T, B]`.
            state: The memory's state before the first row, float32 `[B, H]`; None for zeros.
            is_first: bool `[T, B]`: the memory forgets before this row.
        """
        features, value_features = self._encode(observations)
        states = None
        if self.memory is not None:
            features, states = self.memory(features, state, is_first)
            value_features = features
        params = self.policy_head(features)
        if self.action_head.kind == "gaussian":
            log_std = self.log_std.clamp(*_LOG_STD_RANGE).expand_as(params)
            params = torch.cat([params, log_std], dim=-1)
        return PolicyOutput(params, self.value_head(value_features).squeeze(-1), states)

    def to_graph(self, *, with_value: bool = False) -> PolicyGraph:
        """The policy in numpy, a copy that later updates do not touch; its value too, if a student is to learn it."""
        heads = {"logits": export_layer(self.policy_head)}
        if self.action_head.kind == "gaussian":
            log_std = self.log_std.detach().clamp(*_LOG_STD_RANGE)
            zeros = np.zeros(self.policy_head.weight.shape, np.float32)
            heads = {"mean": export_layer(self.policy_head), "log_std": Layer(zeros, as_numpy(log_std))}
        normaliser = self.normaliser
        is_vector = isinstance(normaliser, ObservationNormaliser)
        own_tower = self.value_tower if with_value else None
        return PolicyGraph(
            torso=export_tower(self.policy_tower),
            heads=heads,
            value_head=export_layer(self.value_head) if with_value else None,
            value_torso=None if own_tower is None else export_tower(own_tower),
            memory=None if self.memory is None else export_memory(self.memory),
            image_shape=None if is_vector else self._shape,  # type: ignore[arg-type] - an image has three sides
            observation_shift=as_numpy(normaliser.shift) if is_vector else None,
            observation_scale=as_numpy(normaliser.scale) if is_vector else None,
        )

    def _encode(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Features for the policy and for the value, `[..., F]` both."""
        leading = observations.shape[: -len(self._shape)]
        normalised = self.normaliser(observations.reshape(-1, *self._shape))
        features = self.policy_tower(normalised).reshape(*leading, -1)
        if self.value_tower is None:
            return features, features
        return features, self.value_tower(normalised).reshape(*leading, -1)
