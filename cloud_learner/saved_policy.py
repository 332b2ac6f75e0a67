"""The policy of a checkpoint, without the run around it: for what compresses and measures it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud_learner.board_book import Spaces
from cloud_learner.checkpoints import StateFolder
from cloud_learner.networks import ActorCritic
from cloud_learner.policy_metadata import policy_metadata
from cloud_learner.saved_run import SavedRun
from compressor import CompressionRecipe, InvalidPolicyError, PolicyGraph
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import RunSpec


@dataclass(frozen=True, slots=True)
class SavedPolicy:
    """What a learner has learned.

    Attributes:
        graph: The policy, with its value.
        run: What boards were told.
        version: The newest version that was published before.
        spaces: What it observes and does.
    """

    graph: PolicyGraph
    run: RunSpec
    version: int
    spaces: Spaces

    def metadata(self, graph: PolicyGraph, recipe: CompressionRecipe) -> dict[str, Any]:
        """What a file of this policy says of itself, as a policy of its run."""
        return policy_metadata(
            recipe,
            heads=graph.heads,
            state_size=graph.state_size,
            run=self.run,
            version=self.version,
            spaces=self.spaces,
            largest_logit=0.0,
        )

    @classmethod
    def load(cls, checkpoint: Path) -> "SavedPolicy":
        """Read a checkpoint.

        Args:
            checkpoint: The learner's state folder, or `checkpoint.pt` in it.

        Raises:
            ProgramError: There is none, it holds no policy, or another EdgeRL has written it.
        """
        folder = checkpoint.parent if checkpoint.name == "checkpoint.pt" else checkpoint
        state = StateFolder(folder, is_only_read=True)
        saved = SavedRun.load(state)
        if saved is None:
            raise ProgramError(
                ExitCode.STATE_UNUSABLE,
                f"{folder} has no checkpoint.pt: give the folder that `edgerl learn --state` was given",
            )
        if saved.architecture is None or saved.spaces is None:
            raise ProgramError(
                ExitCode.STATE_UNUSABLE,
                f"the checkpoint in {folder} does not say what its network is made of: let `edgerl learn` of this "
                "version go on from it for a moment, which saves it anew",
            )
        network = ActorCritic.of(saved.architecture, saved.spaces, frame_stack=saved.run.frame_stack)
        try:
            network.load_state_dict(saved.algorithm["network"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise state.unfit("holds another network than it says", error) from error
        try:
            return cls(network.to_graph(with_value=True), saved.run, saved.version, saved.spaces)
        except InvalidPolicyError as error:
            raise state.unfit("holds a policy that cannot act", error) from error
