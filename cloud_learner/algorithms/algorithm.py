"""The seam: what the learner asks of an algorithm, and nothing else."""

from dataclasses import dataclass
from typing import Any, Protocol

from cloud_learner.batching import Batch
from compressor.distillation import Lesson
from compressor.policy_graph import PolicyGraph
from fleet_protocol.exit_codes import ExitCode, ProgramError


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """What one update was like; means over the batch.

    Attributes:
        policy_loss: Of the first pass.
        value_loss: Of the first pass.
        entropy: Of the current policy, in nats.
        kl: KL(mu || pi), in nats.
        effective_sample_size: 0 to 1.
        clip_share: Share of importance ratios above rho-bar.
        explained_variance: Of the value targets; nan where they are constant.
        largest_logit: Largest difference of a logit to the first, for the wire grid; 0 for continuous heads.
    """

    policy_loss: float
    value_loss: float
    entropy: float
    kl: float
    effective_sample_size: float
    clip_share: float
    explained_variance: float
    largest_logit: float


class Diverged(ProgramError):
    """A loss or a weight is not finite; nothing can be learned or published any more."""

    def __init__(self, what: str) -> None:
        super().__init__(
            ExitCode.DIVERGED,
            f"learning has diverged: {what}; go on from the last checkpoint, with a smaller learning_rate or "
            "max_grad_norm",
        )


class Algorithm(Protocol):
    """Owns the networks and their optimiser."""

    def update(self, batch: Batch) -> UpdateReport:
        """Learn from a batch.

        Raises:
            Diverged: The losses are not finite.
        """
        ...

    def policy_graph(self, *, with_value: bool = False) -> PolicyGraph:
        """A copy of the policy as it is now, with its value for a student to learn, or without.

        Raises:
            Diverged: A weight is not finite.
        """
        ...

    def lesson(self) -> Lesson:
        """What the newest batch teaches a student: what the network said of it before it learned from it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs: tensors, numbers and containers of them."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        ...
