"""`edgerl compress`: a learner's checkpoint as a small file, and what that costs the policy and saves the board."""

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fleet_protocol.exit_codes import ExitCode, ProgramError

_PHASES: Final = {"distill": "a student learns", "prune": "what is left learns", "qat": "it learns to be rounded"}


def compress(
    checkpoint: Annotated[Path, typer.Argument(help="The learner's state folder, or checkpoint.pt in it.")],
    recipe: Annotated[str, typer.Option(help="Steps, joined by +; see below.")] = "int8-dynamic",
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("policy.tflite"),
    report: Annotated[Path | None, typer.Option(help="Write the report here (JSON).")] = None,
    floor: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Keep the most sensitive layers in float32 until so many actions agree."),
    ] = None,
    episodes: Annotated[int, typer.Option(min=0, help="Greedy episodes of both policies on the same seeds.")] = 100,
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps of each step of the recipe that trains.")] = 2000,
    allow_env: Annotated[
        list[str] | None, typer.Option(help="Make environments of this module here, beside Gymnasium's own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of training and environments.")] = 1,
) -> None:
    """Compress what a learner has learned into a file for boards, and report what that costs and saves.

    The file is compared with the checkpoint's policy on what it meets in the environment, which is played here.

    A recipe is made of steps in this order: `distill(64,64)` (a student of these widths), `prune(0.5)` (half of each
    layer's units go), `qat` (the weights learn to be rounded), a precision (`float32`, `float16`, `int8-dynamic`,
    `int4-dynamic`, `int8`, `int8-full`), `per-tensor`, `keep(logits)` (layers that stay in float32).

    Example: `edgerl compress state --recipe "prune(0.5)+int8-dynamic" --report report.json`
    """
    from cloud_learner.saved_policy import SavedPolicy  # noqa: PLC0415 - torch takes seconds to import
    from compressor import CompressionRecipe, InvalidPolicyError, RecipeError, UnsupportedPolicyError  # noqa: PLC0415
    from compressor.calibration import CalibrationError  # noqa: PLC0415
    from edgerl.compression import compress_checkpoint  # noqa: PLC0415
    from edgerl.compression_view import leave  # noqa: PLC0415
    from edgerl.practice import Practice  # noqa: PLC0415

    try:
        chosen = CompressionRecipe.parse(recipe)
    except RecipeError as error:
        raise ProgramError(ExitCode.USAGE, f"--recipe: {error}") from error
    if floor is not None and chosen.precision.is_float:
        raise ProgramError(ExitCode.USAGE, f"--floor keeps layers from being int8, and {chosen} has none: leave it out")
    saved = SavedPolicy.load(checkpoint)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Practice(saved.run, allowed=allow_env or [], seed=seed) as practice,
        Progress(*columns, console=console, disable=not chosen.needs_training) as progress,
    ):
        phases: dict[str, TaskID] = {}

        def told(phase: str, step: int, of: int) -> None:
            if phase not in phases:
                phases[phase] = progress.add_task(f"{phase}: {_PHASES[phase]}", total=of)
            progress.update(phases[phase], completed=step)

        try:
            made = compress_checkpoint(
                saved, chosen, practice, steps=steps, episodes=episodes, floor=floor, seed=seed, told=told
            )
        except (UnsupportedPolicyError, InvalidPolicyError, CalibrationError) as error:
            raise ProgramError(ExitCode.USAGE, f"{recipe}: {error}") from error
    leave(made, out=out, report=report, env_id=saved.run.env_id)
