"""The algorithm of a run: made by its settings, or restored from its checkpoint."""

import torch

from cloud_learner.algorithms.algorithm import Algorithm
from cloud_learner.algorithms.impala import Impala
from cloud_learner.board_book import Spaces
from cloud_learner.checkpoints import StateFolder
from cloud_learner.config import LearnerSettings
from cloud_learner.networks import ActorCritic
from cloud_learner.saved_run import SavedRun


def make_algorithm(settings: LearnerSettings, spaces: Spaces, *, frame_stack: int, device: torch.device) -> Algorithm:
    """Return a new one.

    Args:
        settings: What was set.
        spaces: What boards observe and do.
        frame_stack: Observations that make what the policy sees.
        device: Where its tensors shall live.

    Raises:
        ProgramError: Its network cannot read such observations.
    """
    torch.manual_seed(settings.seed)  # weights only: all other randomness is the boards'
    return Impala(ActorCritic.of(settings.architecture, spaces, frame_stack=frame_stack).to(device), settings)


def restore(algorithm: Algorithm, saved: SavedRun, state: StateFolder) -> None:
    """Have it go on from a checkpoint.

    Raises:
        ProgramError: The checkpoint is of another network.
    """
    try:
        algorithm.load_state_dict(saved.algorithm)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise state.unfit("holds another network than network, hidden_sizes and memory say", error) from error
