"""How a run begins: settings checked, state found, broker reached, a new run made or an old one resumed."""

import logging
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from msgspec import convert

from cloud_learner.checkpoints import StateFolder, VersionCounter
from cloud_learner.config import LearnerSettings
from cloud_learner.fleet_link import FleetLink
from cloud_learner.learner import Learner, RunResult
from compressor import CompressionRecipe, UnknownRecipeError
from fleet_protocol.address import BrokerAddress
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import LearnerReport, RunSpec

_log = logging.getLogger(__name__)

_CONNECT_WAIT_S: Final = 10.0


def learn(settings: LearnerSettings, *, should_stop: Callable[[], bool]) -> RunResult:
    """Lead one run: announce it, learn until its target, limit or a stop, settle, report.

    Args:
        settings: What was set.
        should_stop: Asked between updates; True ends the run, and what was learned is saved.

    Raises:
        ProgramError: No broker, an unusable state folder, or settings that do not fit together.
    """
    address = BrokerAddress.parse(settings.broker).require_loopback()
    recipe = _parse_recipe(settings.precision)
    if settings.clip_rho_threshold < settings.clip_c_threshold:
        raise ProgramError(ExitCode.CONFIG, "clip_rho_threshold must not be below clip_c_threshold (V-trace)")
    device = choose_device(settings.device)
    torch.set_num_threads(settings.threads)
    state = StateFolder(Path(settings.state))
    checkpoint = state.load()
    with FleetLink(address, fleet=settings.fleet) as link:
        link.wait_connected(_CONNECT_WAIT_S)
        retained_run, retained_report = link.last_run()
        run = _resumed_run(settings, checkpoint) or _new_run(settings, above=retained_run)
        learner = Learner(settings, run, link=link, device=device, recipe=recipe, checkpoint=checkpoint)
        versions = VersionCounter(state, above=_highest_version(checkpoint, retained_report))
        return learner.lead(state, versions, should_stop)


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where torch finds it.

    Raises:
        ProgramError: The device is unknown, or not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ProgramError(ExitCode.CONFIG, f"device {name!r} is not usable here: {error}") from error
    return device


def _parse_recipe(text: str) -> CompressionRecipe:
    try:
        return CompressionRecipe.parse(text)
    except UnknownRecipeError as error:
        raise ProgramError(ExitCode.CONFIG, f"precision: {error}") from error


def _new_run(settings: LearnerSettings, *, above: RunSpec | None) -> RunSpec:
    return RunSpec(
        run_id=uuid.uuid4().hex[:12],
        generation=above.generation + 1 if above else 1,
        env_id=settings.env_id,
        env_kwargs=settings.env_kwargs,
        unroll_length=settings.unroll_length,
        copies=settings.copies,
        max_in_flight=settings.max_in_flight,
        max_age_s=settings.max_age_s,
    )


def _resumed_run(settings: LearnerSettings, checkpoint: dict[str, Any] | None) -> RunSpec | None:
    if checkpoint is None:
        return None
    run = convert(checkpoint["run"], RunSpec)
    if (run.env_id, run.env_kwargs) != (settings.env_id, settings.env_kwargs):
        raise ProgramError(
            ExitCode.CONFIG,
            f"the state folder {settings.state} holds a run of {run.env_id}, not of {settings.env_id}; "
            "choose another --state for another task",
        )
    _log.info("resuming run %s from %s", run.run_id, settings.state)
    return run


def _highest_version(checkpoint: dict[str, Any] | None, report: LearnerReport | None) -> int:
    retained = max(report.versions.values(), default=0) if report else 0
    return max(checkpoint["version"] if checkpoint else 0, retained)
