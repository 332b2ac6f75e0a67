"""Convert a user's torch module into a policy file, and judge it as a checkpoint's. `convert_command` prints it."""

import importlib
from collections.abc import Callable
from typing import Final

from cloud_learner.policy_metadata import policy_metadata
from compressor import CompressedPolicy, CompressionRecipe
from compressor.conversion import ConvertedModule, convert_module
from compressor.fidelity import judge_outputs
from compressor.recipe import float32
from compressor.run_file import run_model
from edge_actor.checker import check
from edge_actor.checker_messages import CheckPolicy
from edge_actor.policy_file import BadPolicyFile
from edgerl.compression import VISITS, Compression, play_both, seen_rows
from edgerl.practice import Practice
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import RunSpec
from fleet_protocol.spaces import SpaceSpec, branches, head_size, stacked_shape

VERSION: Final = 1
"""Of every converted policy: no learner counts them."""


def make_module(target: str) -> object:
    """Have the user's code make the module.

    Args:
        target: `package.module:factory`; the factory takes nothing and returns the module with its weights.

    Raises:
        ProgramError: It is not there, or fails.
    """
    factory = _factory(target)
    try:
        return factory()
    except Exception as error:  # somebody else's code, which may raise anything
        raise ProgramError(ExitCode.USAGE, f"{target} fails: {type(error).__name__}: {error}") from error


def convert_policy(module: object, recipe: CompressionRecipe, practice: Practice, *, episodes: int) -> Compression:
    """Convert a module, have the file act in its environment, and compare it there with the module itself.

    Args:
        module: The user's, a `torch.nn.Module` with its weights.
        recipe: How weights are stored.
        practice: The environments that the policy is for, here.
        episodes: Greedy episodes of a float32 file and this one on the same seeds; 0 for none.

    Returns:
        What `compress_checkpoint` returns for a checkpoint; nothing was trained.

    Raises:
        MissingConverterError: The extra `convert` is not installed.
        InvalidPolicyError: The module's weights or outputs are not a policy's.
        UnsupportedPolicyError: It cannot be converted, or not by this recipe; says which layer.
        ProgramError: Boards would refuse the file, or the environment failed.
    """
    (observation, action), run = practice.spaces, practice.run
    converted = convert_module(
        module,
        observation_shape=stacked_shape(observation, run.frame_stack),
        dtype=observation.dtype,
        heads=heads_of(action),
    )
    exact, policy = (_accepted(converted, each, practice) for each in (float32(), recipe))
    observations, rows = seen_rows([practice.visit(exact.model) for _ in range(VISITS)])
    seen = observations[rows]
    fidelity = judge_outputs(
        converted.forward(seen),
        run_model(policy.model, seen),
        model=policy.model,
        observations=seen,
        bytes_float32=len(converted.write(float32(), metadata={}).model),
        branches=list(branches(action)) or None,
    )
    returns = play_both(practice, exact, policy, episodes=episodes)
    return Compression(policy, fidelity, returns, sensitivities=[], kept=[], training_s=0.0)


def heads_of(action: SpaceSpec) -> dict[str, int]:
    """The outputs that a policy needs for an action space, and their widths."""
    width = head_size(action)
    return {"logits": width} if branches(action) else {"mean": width, "log_std": width}


def _accepted(converted: ConvertedModule, recipe: CompressionRecipe, practice: Practice) -> CompressedPolicy:
    """The module as a file that boards accept."""
    run: RunSpec = practice.run
    metadata = policy_metadata(
        recipe,
        heads=converted.module.heads,
        state_size=0,
        run=run,
        version=VERSION,
        spaces=practice.spaces,
        largest_logit=0.0,
    )
    policy = converted.write(recipe, metadata=metadata)
    request = CheckPolicy(serial=1, version=VERSION, run=run, copies=run.copies, model=policy.model, good_us=0.0)
    try:
        check(request)
    except BadPolicyFile as error:
        raise ProgramError(ExitCode.USAGE, f"boards would refuse the file ({error.reason}): {error}") from error
    return policy


def _factory(target: str) -> Callable[[], object]:
    name, _, attribute = target.partition(":")
    if not name or not attribute.isidentifier():
        raise _unusable(target, "expected package.module:factory, a function that returns the module with its weights")
    try:
        factory = getattr(importlib.import_module(name), attribute, None)
    except ModuleNotFoundError as error:
        if f"{name}.".startswith(f"{error.name}."):
            advice = "install its package in this Python (pip install -e .), or put its folder into PYTHONPATH"
            raise _unusable(target, f"there is no module {error.name}; {advice}") from error
        raise ProgramError(ExitCode.DEPENDENCY_MISSING, f"{target} needs {error.name}: install it here") from error
    except Exception as error:  # importing runs somebody else's code, which may raise anything
        raise _unusable(target, f"importing it fails: {type(error).__name__}: {error}") from error
    if not callable(factory):
        raise _unusable(target, f"{name} has no function {attribute}; check the spelling")
    return factory


def _unusable(target: str, sentence: str) -> ProgramError:
    return ProgramError(ExitCode.USAGE, f"{target}: {sentence}")
