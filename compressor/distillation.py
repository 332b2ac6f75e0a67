"""A policy that learns to act like another: the loss, and `Distiller`, which takes its steps.

    loss = T^2 KL(teacher / T || student / T)  +  error of the value  +  error of the memory's state

after Hinton et al. 2015 (https://arxiv.org/abs/1503.02531) and policy distillation (Rusu et al. 2016,
https://arxiv.org/abs/1511.06295). What the student sees should be what it visits itself: where it acts, the teacher
tells it what to do, so that its errors do not lead it to where nobody has taught it anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.policy_graph import PolicyGraph
from compressor.torch_policy import TorchPolicy

_SMALLEST_VARIANCE: Final = 1e-6
_LARGEST_GRADIENT: Final = 1.0

Outputs = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What was seen, and what the teacher says of it.

    Attributes:
        observations: `[N, ...]`, or `[T, B, ...]` where the policy has a memory, as the environment gives them.
        taught: the teacher's outputs by name, without gradients: `logits` or `mean` and `log_std`; `value` and
            `state_out` where they shall be learned too.
        state: float32 `[B, H]`, the memory before the first row.
        is_first: bool `[T, B]`: an episode begins with this row.
    """

    observations: Tensor
    taught: Outputs
    state: Tensor | None = None
    is_first: Tensor | None = None


class Distiller:
    """Teaches a student, step by step.

    Args:
        student: Learns; it may round as its file will.
        branches: How many actions each branch of a categorical head has; None if there is only one.
        learning_rate: Adam's step size.
        temperature: Above 1 it counts more how the teacher ranks what it would not do.
    """

    def __init__(
        self,
        student: TorchPolicy,
        *,
        branches: Sequence[int] | None = None,
        learning_rate: float = 1e-3,
        temperature: float = 1.0,
    ) -> None:
        self.student = student
        self._branches = branches
        self._temperature = temperature
        self._parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.Adam(self._parameters, lr=learning_rate)

    def step(self, lesson: Lesson) -> float:
        """Learn from a lesson once; returns the mean KL(teacher || student) before that, in nats."""
        self.student.train()
        said = self.student(lesson.observations, lesson.state, lesson.is_first)
        loss = distillation_loss(lesson.taught, said, branches=self._branches, temperature=self._temperature)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, _LARGEST_GRADIENT)
        self._optimizer.step()
        with torch.no_grad():
            return float(policy_divergence(lesson.taught, said, branches=self._branches).mean())

    def set_learning_rate(self, learning_rate: float) -> None:
        """Go on with another step size."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def follow(self, teacher: PolicyGraph) -> None:
        """Take over what is not learned: the teacher's normalisation, and a `log_std` that depends on no state."""
        student = self.student
        with torch.no_grad():
            for name in ("observation_shift", "observation_scale"):
                array = getattr(teacher, name)
                if array is not None:
                    getattr(student, name).copy_(torch.from_numpy(array))
            if is_constant(teacher, "log_std"):
                bias = student.heads["log_std"].get_parameter("bias")
                bias.copy_(torch.from_numpy(teacher.heads["log_std"].bias))


def is_constant(graph: PolicyGraph, head: str) -> bool:
    """Whether a policy has this head, and it depends on no state."""
    return head in graph.heads and not graph.heads[head].weight.any()


def distillation_loss(
    taught: Outputs, said: Outputs, *, branches: Sequence[int] | None = None, temperature: float = 1.0
) -> Tensor:
    """Return the loss, a scalar, the mean over all rows.

    Args:
        taught: The teacher's outputs, `[..., out]` each, without gradients.
        said: The student's; what it does not have of `value` and `state_out` is not learned.
        branches: How many actions each branch of a categorical head has; None if there is only one.
        temperature: Of both distributions, categorical ones only. The KL is multiplied by its square, so that gradients
            stay as large; a Gaussian has none, and takes 1.
    """
    temperature = temperature if "logits" in taught else 1.0
    loss = temperature**2 * policy_divergence(taught, said, branches=branches, temperature=temperature).mean()
    for name in ("value", "state_out"):
        if name in taught and name in said:
            loss = loss + _relative_error(taught[name], said[name])
    return loss


def policy_divergence(
    taught: Outputs, said: Outputs, *, branches: Sequence[int] | None = None, temperature: float = 1.0
) -> Tensor:
    """Return KL(teacher || student) in nats, `[...]`; arguments as `distillation_loss`, whose part it is."""
    if "logits" in taught:
        return _kl_categorical(taught["logits"], said["logits"], branches, temperature)
    return _kl_gaussian(taught, said)


def _kl_categorical(taught: Tensor, said: Tensor, branches: Sequence[int] | None, temperature: float) -> Tensor:
    """sum_a p(a) (log p(a) - log q(a)), summed over the branches, `[...]`."""
    cuts = list(branches) if branches else [taught.shape[-1]]
    total = taught.new_zeros(taught.shape[:-1])
    for p, q in zip(taught.split(cuts, dim=-1), said.split(cuts, dim=-1), strict=True):
        log_p, log_q = (functional.log_softmax(logits / temperature, dim=-1) for logits in (p, q))
        total = total + (log_p.exp() * (log_p - log_q)).sum(-1)
    return total


def _kl_gaussian(taught: Outputs, said: Outputs) -> Tensor:
    """sum_a log(s_q / s_p) + (s_p^2 + (m_p - m_q)^2) / (2 s_q^2) - 1/2, `[...]`."""
    log_ratio = taught["log_std"] - said["log_std"]
    distance = (taught["mean"] - said["mean"]) / said["log_std"].exp()
    return (0.5 * ((2 * log_ratio).exp() + distance.square() - 1) - log_ratio).sum(-1)


def _relative_error(taught: Tensor, said: Tensor) -> Tensor:
    """The mean squared error, as a share of the variance of what is taught: values may be of any size."""
    rows = taught.flatten(0, -2)
    variance = rows.var(dim=0, correction=0).clamp_min(_SMALLEST_VARIANCE)
    return ((taught - said).square() / variance).mean()
