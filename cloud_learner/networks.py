"""The learner's network: two separate tanh towers, one for the policy and one for the value."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud_learner.normalisation import ObservationNormaliser
from compressor.layer import Layer
from compressor.policy_graph import PolicyGraph
from corrector import categorical_log_prob, gaussian_log_prob
from fleet_protocol.spaces import BoxSpec, DiscreteSpec, SpaceSpec
from fleet_protocol.trajectory import Head

_LOG_STD_RANGE = (-5.0, 1.0)


class PolicyOutput(NamedTuple):
    """What the network says about `[..., D]` observations: the head's parameters and the value.

    Attributes:
        params: Logits `[..., A]`, or means and log standard deviations, one after the other `[..., 2 A]`.
        values: `[...]`.
    """

    params: Tensor
    values: Tensor


class ActorCritic(nn.Module):
    """Policy and value of one task.

    Args:
        observation: The observation space, a vector.
        action: The action space.
        hidden_sizes: Widths of the layers of each tower.
    """

    def __init__(self, observation: BoxSpec, action: SpaceSpec, hidden_sizes: list[int]) -> None:
        super().__init__()
        size = observation.shape[0]
        self.head: Head = "categorical" if isinstance(action, DiscreteSpec) else "gaussian"
        actions = action.n if isinstance(action, DiscreteSpec) else action.shape[0]
        self.normaliser = ObservationNormaliser(size)
        self.policy_tower = _tower(size, hidden_sizes)
        self.value_tower = _tower(size, hidden_sizes)
        self.policy_head = _linear(hidden_sizes[-1], actions, gain=0.01)
        self.value_head = _linear(hidden_sizes[-1], 1, gain=1.0)
        if self.head == "gaussian":
            self.log_std = nn.Parameter(torch.zeros(actions))

    def forward(self, observations: Tensor) -> PolicyOutput:
        """Evaluate observations, float32 `[..., D]`."""
        normalised = self.normaliser(observations)
        params = self.policy_head(self.policy_tower(normalised))
        if self.head == "gaussian":
            log_std = self.log_std.clamp(*_LOG_STD_RANGE).expand_as(params)
            params = torch.cat([params, log_std], dim=-1)
        return PolicyOutput(params, self.value_head(self.value_tower(normalised)).squeeze(-1))

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        """Log-probability `[...]` of actions under the head's parameters."""
        if self.head == "categorical":
            return categorical_log_prob(params, actions)
        mean, log_std = params.chunk(2, dim=-1)
        return gaussian_log_prob(mean, log_std, actions)

    def entropy(self, params: Tensor) -> Tensor:
        """Entropy `[...]` in nats."""
        if self.head == "categorical":
            log_probs = params.log_softmax(dim=-1)
            return -(log_probs.exp() * log_probs).sum(dim=-1)
        _, log_std = params.chunk(2, dim=-1)
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1)

    def to_graph(self) -> PolicyGraph:
        """The policy alone, in numpy: a copy that later updates do not touch."""
        heads = {"logits": _layer(self.policy_head)}
        if self.head == "gaussian":
            log_std = self.log_std.detach().clamp(*_LOG_STD_RANGE)
            zeros = np.zeros(self.policy_head.weight.shape, np.float32)
            heads = {"mean": _layer(self.policy_head), "log_std": Layer(zeros, _numpy(log_std))}
        return PolicyGraph(
            torso=tuple(_layer(m, "tanh") for m in self.policy_tower if isinstance(m, nn.Linear)),
            heads=heads,
            observation_shift=_numpy(self.normaliser.shift),
            observation_scale=_numpy(self.normaliser.scale),
        )


def _tower(size: int, hidden_sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden_sizes:
        layers += [_linear(size, width, gain=math.sqrt(2)), nn.Tanh()]
        size = width
    return nn.Sequential(*layers)


def _linear(inputs: int, outputs: int, *, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def _layer(linear: nn.Linear, activation: str | None = None) -> Layer:
    return Layer(_numpy(linear.weight), _numpy(linear.bias), activation)  # type: ignore[arg-type]


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().to("cpu", torch.float32, copy=True).numpy()
