"""`edgerl convert`: a user's own torch module as a policy file, and how well the file does what the module does."""

from pathlib import Path
from typing import Annotated

import typer

from fleet_protocol.exit_codes import ExitCode, ProgramError


def convert(
    factory: Annotated[str, typer.Argument(help="package.module:factory, which returns the module with its weights.")],
    env: Annotated[
        str | None,
        typer.Option(
            help="Environment that it acts in: Gymnasium's name, or module:Class.", show_default="CartPole-v1"
        ),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="float32, float16, int8-dynamic, int8-dynamic+per-tensor or int4-dynamic.")
    ] = "int8-dynamic",
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("policy.tflite"),
    report: Annotated[Path | None, typer.Option(help="Write the report here (JSON).")] = None,
    episodes: Annotated[int, typer.Option(min=0, help="Greedy episodes of both files on the same seeds.")] = 100,
    allow_env: Annotated[
        list[str] | None, typer.Option(help="Make environments of this module here, beside Gymnasium's own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the environments.")] = 1,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The run's TOML file: env_kwargs, frame_stack, control_hz.")
    ] = None,
) -> None:
    """Convert your own torch module into a policy file for boards, and report how true the file is to it.

    The factory takes nothing and returns a `torch.nn.Module`. It gets observations as float32 `[N, D]`, images as
    float32 `[N, height, width, channels]` from 0 to 255, for any N, and returns logits `[N, actions]`, or for
    continuous actions a dict of `mean` and `log_std`. It needs the extra: `pip install 'edgerl[convert]'`.

    Example: `edgerl convert my_package.policies:make --env CartPole-v1 --report report.json`
    """
    from cloud_learner.config import LearnerSettings  # noqa: PLC0415 - torch takes seconds to import
    from compressor import CompressionRecipe, InvalidPolicyError, RecipeError, UnsupportedPolicyError  # noqa: PLC0415
    from compressor.conversion import MissingConverterError  # noqa: PLC0415
    from edge_actor.config import BoardSettings  # noqa: PLC0415
    from edgerl.compression_view import leave  # noqa: PLC0415
    from edgerl.conversion import convert_policy, make_module  # noqa: PLC0415
    from edgerl.practice import Practice  # noqa: PLC0415
    from fleet_protocol.messages import RunSpec  # noqa: PLC0415
    from fleet_protocol.settings import load_settings  # noqa: PLC0415

    try:
        chosen = CompressionRecipe.parse(recipe)
    except RecipeError as error:
        raise ProgramError(ExitCode.USAGE, f"--recipe: {error}") from error
    settings = load_settings(LearnerSettings, "learner", file=config, flags={"env_id": env})
    allowed = load_settings(BoardSettings, "board", file=config).allowed_environments
    run = RunSpec(
        run_id="converted",
        generation=1,
        env_id=settings.env_id,
        env_kwargs=settings.env_kwargs,
        unroll_length=settings.unroll_length,
        copies=settings.copies,
        frame_stack=settings.frame_stack,
        control_hz=settings.control_hz,
    )
    module = make_module(factory)
    with Practice(run, allowed=[*allowed, *(allow_env or [])], seed=seed) as practice:
        try:
            made = convert_policy(module, chosen, practice, episodes=episodes)
        except MissingConverterError as error:
            raise ProgramError(ExitCode.DEPENDENCY_MISSING, str(error)) from error
        except (InvalidPolicyError, UnsupportedPolicyError) as error:
            raise ProgramError(ExitCode.USAGE, f"{factory}: {error}") from error
    leave(made, out=out, report=report, env_id=run.env_id)
