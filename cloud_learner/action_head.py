"""The distribution that the policy's outputs name: K categorical ones side by side, or a diagonal Gaussian."""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from torch import Tensor

from corrector import (
    gaussian_log_prob,
    kl_divergence_categorical,
    kl_divergence_gaussian,
    multi_categorical_log_prob,
)
from fleet_protocol.spaces import SpaceSpec, branches
from fleet_protocol.trajectory import Head


class ActionHead(Protocol):
    """Says what parameters `[..., P]` mean.

    Attributes:
        kind: As windows and files name it.
    """

    kind: Head

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        """Log-probability `[...]` of actions."""
        ...

    def entropy(self, params: Tensor) -> Tensor:
        """Entropy `[...]`, in nats."""
        ...

    def divergence(self, behavior: Tensor, target: Tensor) -> Tensor:
        """Mean KL(mu || pi) of two sets of parameters, a scalar in nats."""
        ...

    def outputs(self, params: Tensor) -> dict[str, Tensor]:
        """The parameters by the names that policy files give them."""
        ...

    def largest_logit(self, params: Tensor) -> float:
        """Largest difference of a logit to the first of its branch; 0 for continuous actions."""
        ...


def make_action_head(space: SpaceSpec) -> ActionHead:
    """The head of an action space."""
    sizes = branches(space)
    return CategoricalHead(sizes) if sizes else GaussianHead()


class CategoricalHead:
    """Parameters are the logits of all branches, one branch after the other; actions are int64 `[..., K]`.

    Branches are drawn independently: log-probabilities, entropies and divergences add up.

    Args:
        sizes: Choices of each branch.
    """

    kind: Head = "categorical"

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = list(sizes)

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        """Sum of the branches' log-probabilities."""
        return multi_categorical_log_prob(params, actions, self._sizes)

    def entropy(self, params: Tensor) -> Tensor:
        """Sum of the branches' entropies."""
        return _sum(_entropy(logits) for logits in params.split(self._sizes, dim=-1))

    def divergence(self, behavior: Tensor, target: Tensor) -> Tensor:
        """Sum of the branches' divergences."""
        pairs = zip(behavior.split(self._sizes, dim=-1), target.split(self._sizes, dim=-1), strict=True)
        return _sum(kl_divergence_categorical(*pair) for pair in pairs)

    def outputs(self, params: Tensor) -> dict[str, Tensor]:
        """All branches in one."""
        return {"logits": params}

    def largest_logit(self, params: Tensor) -> float:
        """Over all branches."""
        return max(float((logits - logits[..., :1]).abs().max()) for logits in params.split(self._sizes, dim=-1))


class GaussianHead:
    """Parameters are means and then log standard deviations `[..., 2 A]`; actions are float32 `[..., A]`."""

    kind: Head = "gaussian"

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        """Log-density."""
        mean, log_std = params.chunk(2, dim=-1)
        return gaussian_log_prob(mean, log_std, actions)

    def entropy(self, params: Tensor) -> Tensor:
        """Differential entropy."""
        _, log_std = params.chunk(2, dim=-1)
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1)

    def divergence(self, behavior: Tensor, target: Tensor) -> Tensor:
        """Of the two Gaussians."""
        return kl_divergence_gaussian(*behavior.chunk(2, dim=-1), *target.chunk(2, dim=-1))

    def outputs(self, params: Tensor) -> dict[str, Tensor]:
        """Means and log standard deviations."""
        mean, log_std = params.chunk(2, dim=-1)
        return {"mean": mean, "log_std": log_std}

    def largest_logit(self, params: Tensor) -> float:
        """There are none."""
        del params
        return 0.0


def _sum(terms: Iterable[Tensor]) -> Tensor:
    # Not sum(): its 0 is an operation more on every call of the plain case, one branch.
    total, *others = terms
    for term in others:
        total = total + term
    return total


def _entropy(logits: Tensor) -> Tensor:
    log_probs = logits.log_softmax(dim=-1)
    return -(log_probs.exp() * log_probs).sum(dim=-1)
