"""How a run begins: settings checked, state found, broker reached, a new run made or an old one resumed."""

import logging
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from msgspec.structs import replace

from cloud_learner.checkpoints import StateFolder, VersionCounter
from cloud_learner.config import AUTO, SIGNED_KINDS, LearnerSettings
from cloud_learner.fleet_link import FleetLink
from cloud_learner.learner import Learner, RunResult
from cloud_learner.saved_run import SavedRun
from compressor import CompressionRecipe, Precision, RecipeError
from fleet_protocol.address import broker_address
from fleet_protocol.clock import utc_milliseconds
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import LearnerReport, RunSpec
from fleet_protocol.signing_keys import SigningKeys

_log = logging.getLogger(__name__)

_CONNECT_WAIT_S: Final = 10.0
_WITH_A_CLOCK: Final = {"copies": 1, "max_in_flight": 0}
"""A run with a clock has one environment per worker, and never waits for the learner (ADR 7)."""


def learn(settings: LearnerSettings, *, should_stop: Callable[[], bool]) -> RunResult:
    """Lead one run: announce it, learn until its target, limit or a stop, settle, report.

    Args:
        settings: What was set.
        should_stop: Asked between updates; True ends the run, and what was learned is saved.

    Raises:
        ProgramError: No broker, an unusable state folder, or settings that do not fit together.
    """
    address = broker_address(settings)
    recipe = _parse_recipe(settings.recipe)
    settings = _checked(settings)
    device = choose_device(settings.device)
    torch.set_num_threads(settings.threads)
    state = StateFolder(Path(settings.state))
    saved = SavedRun.load(state)
    keys = SigningKeys.of(settings, kinds=SIGNED_KINDS, role="learner")
    with FleetLink(address, fleet=settings.fleet, keys=keys, audit=state.audit) as link:
        link.wait_connected(_CONNECT_WAIT_S)
        # With keys nothing counts that a stranger may have left on the broker.
        retained_run, retained_report = (None, None) if keys else link.last_run()
        above = retained_run.generation if retained_run else 0
        run = _resumed_run(settings, saved) or _new_run(settings, above=above)
        learner = Learner(settings, run, link=link, device=device, recipe=recipe, saved=saved)
        versions = VersionCounter(state, above=_highest_version(saved, retained_report))
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


def _parse_recipe(text: str) -> CompressionRecipe | None:
    """None is `auto`."""
    try:
        return None if text == AUTO else CompressionRecipe.parse(text)
    except RecipeError as error:
        raise ProgramError(ExitCode.CONFIG, f"recipe: {error}; or write {AUTO}, and boards choose") from error


def _checked(settings: LearnerSettings) -> LearnerSettings:
    """What was set, with what follows from it; settings that contradict each other are refused."""
    if settings.clip_rho_threshold < settings.clip_c_threshold:
        raise ProgramError(ExitCode.CONFIG, "clip_rho_threshold must not be below clip_c_threshold (V-trace)")
    recipe = _parse_recipe(settings.recipe)
    if recipe is not None and recipe.precision is Precision.INT8_FULL and settings.memory != "none":
        raise ProgramError(ExitCode.CONFIG, "recipe: int8-full has no memory; use int8 or int8-dynamic with it")
    if not settings.control_hz:
        return settings
    defaults = LearnerSettings()
    for name, needed in _WITH_A_CLOCK.items():
        given = getattr(settings, name)
        if given not in (needed, getattr(defaults, name)):
            raise ProgramError(
                ExitCode.CONFIG, f"a run with control_hz needs {name} = {needed}, got {given}; leave {name} out"
            )
    return replace(settings, **_WITH_A_CLOCK)


def _new_run(settings: LearnerSettings, *, above: int) -> RunSpec:
    return RunSpec(
        run_id=uuid.uuid4().hex[:12],
        # The time, so that boards which remember runs of a broker that is gone take this one for the newer.
        generation=max(above + 1, utc_milliseconds()),
        env_id=settings.env_id,
        env_kwargs=settings.env_kwargs,
        unroll_length=settings.unroll_length,
        copies=settings.copies,
        max_in_flight=settings.max_in_flight,
        max_age_s=settings.max_age_s,
        frame_stack=settings.frame_stack,
        control_hz=settings.control_hz,
        safe_action=settings.safe_action,
    )


def _resumed_run(settings: LearnerSettings, saved: SavedRun | None) -> RunSpec | None:
    if saved is None:
        return None
    run = saved.run
    if (run.env_id, run.env_kwargs) != (settings.env_id, settings.env_kwargs):
        raise ProgramError(
            ExitCode.CONFIG,
            f"the state folder {settings.state} holds a run of {run.env_id}, not of {settings.env_id}; "
            "choose another --state for another task",
        )
    _log.info("resuming run %s from %s", run.run_id, settings.state)
    return run


def _highest_version(saved: SavedRun | None, report: LearnerReport | None) -> int:
    retained = max(report.versions.values(), default=0) if report else 0
    return max(saved.version if saved else 0, retained)
