"""`edgerl doctor env NAME`: will this environment do, and can this machine step it at the wanted rate?

It is made as a board makes it, checked by Gymnasium's own checker and by what EdgeRL can read, and then stepped with
random actions for a moment. What is measured is the environment alone; the policy's part is a stated allowance.
"""

import argparse
import json
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from gymnasium.utils.env_checker import check_env

from edge_actor.board_spaces import action_spec, observation_reader, observation_spec
from edge_actor.config import BoardSettings
from edge_actor.environments import Environment, make_environment
from edgerl.doctor.checks import Check, Finding, Probe, examine, ok, problem, warning
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.settings import load_settings

ALLOWANCE_MS: Final = 1.0
"""For inference, drawing the action and waking up in time. Small policies take microseconds on a PC; no Arm board has
been measured, so this is generous for them and too little for large image policies."""
_MS: Final = 1e3
_MARGIN: Final = 0.2
_RESETS: Final = 20
_RESETS_FOR_S: Final = 1.0
_STEPS: Final = 2000
_STEPS_FOR_S: Final = 2.0
_SHOW_EVERY_S: Final = 0.2
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_REPEATABLE: Final = re.compile("determini|np_random|same seed")

Percentiles = dict[str, float]


def examine_environment(asked: argparse.Namespace, measured: dict[str, Any]) -> Iterator[Check]:
    """Make it, check it, step it, close it.

    Args:
        asked: The flags of `edgerl doctor env`.
        measured: Takes `reset_ms` and `step_ms`, by percentile.
    """
    made: list[Environment] = []
    yield from examine("env", {"make": lambda: _make(asked, made)})
    if not made:
        return
    yield from _check_api(made[0])
    probes: dict[str, Probe] = {
        "spaces": lambda: _check_spaces(made[0]),
        "reset": lambda: _measure_reset(made[0], measured, control_hz=asked.control_hz),
        "step": lambda: _measure_step(made[0], measured),
    }
    yield from examine("env", probes)
    if "step_ms" in measured:
        yield from examine("env", {"rate": lambda: judge_rate(measured["step_ms"], control_hz=asked.control_hz)})
    yield from examine("env", {"close": lambda: _close(made[0])})


def judge_rate(step_ms: Percentiles, *, control_hz: float) -> Finding:
    """Can a step, with the policy's allowance, be done within each tick?

    Args:
        step_ms: Milliseconds of a step, by percentile; p99 decides.
        control_hz: The wanted rate; 0 = none is wanted.
    """
    need_ms = step_ms["p99"] + ALLOWANCE_MS
    sum_of_it = f"{need_ms:.3g} ms a step (p99 {step_ms['p99']:.3g} ms and {ALLOWANCE_MS:g} ms allowed for the policy)"
    fastest = f"this machine holds up to {_MS * (1 - _MARGIN) / need_ms:,.0f} Hz with a margin of {_MARGIN:.0%}"
    if control_hz <= 0:
        return ok(f"{sum_of_it}: {fastest}")
    tick_ms = _MS / control_hz
    margin = 1 - need_ms / tick_ms
    found = f"{sum_of_it}, of {tick_ms:.3g} ms a tick at {control_hz:g} Hz"
    if margin < 0:
        advice = f"make steps quicker, or lower control_hz: {fastest}"
        return problem(f"{found}: {need_ms / tick_ms:.2g} times too slow", advice, ExitCode.MACHINE_UNFIT)
    found = f"{found}: a margin of {margin:.0%}"
    if margin < _MARGIN:
        return warning(found, f"expect deadline misses; {fastest}")
    return ok(found)


def _make(asked: argparse.Namespace, made: list[Environment]) -> Finding:
    settings = load_settings(BoardSettings, "board", file=asked.config)
    allowed = [*settings.allowed_environments, *asked.allow_env]
    made.append(make_environment(asked.name, _kwargs(asked.env_kwargs), allowed=allowed))
    spaces = f"observations {made[0].observation_space}, actions {made[0].action_space}"
    return ok(f"{asked.name} is made: {' '.join(spaces.split())}")


def _kwargs(text: str) -> dict[str, Any]:
    try:
        kwargs: Any = json.loads(text)
    except ValueError as error:
        raise ProgramError(ExitCode.USAGE, f"--env-kwargs {text[:80]!r} is no JSON: {error}") from error
    if not isinstance(kwargs, dict):
        raise ProgramError(
            ExitCode.USAGE, f'--env-kwargs: expected a JSON object, as in {{"size": 3}}, got {text[:80]!r}'
        )
    return kwargs


def _check_api(environment: Environment) -> Iterator[Check]:
    """Gymnasium's checker: what it raises decides, and each of its warnings is a line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checks = list(examine("env", {"checker": lambda: _run_checker(environment)}))
    yield from checks
    for sentence in dict.fromkeys(_plain(str(said.message)) for said in caught):
        yield Check("env", "checker", warning(sentence, "Gymnasium says so; policies can be learned all the same"))


def _run_checker(environment: Environment) -> Finding:
    try:
        # Neither rendering nor a second copy is tried: a board renders nothing, and may have one relay only.
        check_env(environment.unwrapped, skip_render_check=True, skip_close_check=True)
    except Exception as error:  # noqa: BLE001 - the environment is somebody else's code, and may raise anything
        found = f"Gymnasium's checker: {_plain(str(error)) or type(error).__name__}"
        if isinstance(error, AssertionError) and _REPEATABLE.search(found):
            return warning(found, "fine for real hardware; a simulation should draw from self.np_random alone")
        return problem(found, "correct the environment: a board would meet the same", ExitCode.ENVIRONMENT_FAILED)
    return ok("Gymnasium's checker finds no fault")


def _check_spaces(environment: Environment) -> Finding:
    observation, action = observation_spec(environment.observation_space), action_spec(environment.action_space)
    return ok(f"EdgeRL can learn it: it observes {_spoken(observation)}, and acts in {_spoken(action)}")


def _spoken(spec: Any) -> str:  # noqa: ANN401 - any of our specs
    shape = getattr(spec, "shape", None)
    if shape is not None:
        return f"{spec.dtype} {list(shape)}"
    count = getattr(spec, "n", None)
    return f"{type(spec).__name__.removesuffix('Spec')} of {count if count is not None else spec.nvec}"


def _measure_reset(environment: Environment, measured: dict[str, Any], *, control_hz: float) -> Finding:
    times = _times("resets", environment.reset, count=_RESETS, for_s=_RESETS_FOR_S)
    measured["reset_ms"] = _percentiles(times)
    found = f"{_told(measured['reset_ms'])}, of {len(times)} resets"
    if measured["reset_ms"]["p50"] * control_hz > _MS:
        return warning(found, f"longer than a tick at {control_hz:g} Hz: each new episode begins with missed deadlines")
    return ok(found)


def _measure_step(environment: Environment, measured: dict[str, Any]) -> Finding:
    actions = [environment.action_space.sample() for _ in range(_STEPS)]
    supply = iter(actions)
    read = observation_reader(environment.observation_space)  # raises where a board would
    environment.reset()
    observation, ended = None, False

    def step() -> None:
        nonlocal observation, ended
        observation, _, terminated, truncated, _ = environment.step(next(supply))
        ended = bool(terminated or truncated)

    def look() -> None:
        read(observation)
        if ended:
            environment.reset()

    times = _times("steps", step, count=_STEPS, for_s=_STEPS_FOR_S, between=look)
    measured["step_ms"] = _percentiles(times)
    return ok(f"{_told(measured['step_ms'])}, of {len(times):,} steps with random actions")


def _times(
    what: str,
    act: Callable[[], object],
    *,
    count: int,
    for_s: float,
    between: Callable[[], None] = lambda: None,
) -> list[float]:
    """Milliseconds of each call, until there are `count` of them or `for_s` seconds are over; once at least.

    Raises:
        ProgramError: The environment raised, or what came between two calls.
    """
    times: list[float] = []
    began = shown = time.monotonic()
    try:
        while len(times) < count and (not times or time.monotonic() - began < for_s):
            started = time.perf_counter_ns()
            act()
            times.append((time.perf_counter_ns() - started) / 1e6)
            between()
            if time.monotonic() - shown > _SHOW_EVERY_S:
                shown = time.monotonic()
                _show(f"{what}: {len(times):,} of {count:,}")
    except Exception as error:
        raise ProgramError(
            ExitCode.ENVIRONMENT_FAILED, f"after {len(times):,} {what} it raised {type(error).__name__}: {error}"
        ) from error
    finally:
        _show("")
    return times


def _show(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text:<40}\r{text}")
        sys.stderr.flush()


def _percentiles(times_ms: list[float]) -> Percentiles:
    p50, p99 = np.percentile(times_ms, [50, 99])
    return {"p50": float(p50), "p99": float(p99), "max": max(times_ms)}


def _told(times_ms: Percentiles) -> str:
    return f"p50 {times_ms['p50']:.3g} ms, p99 {times_ms['p99']:.3g} ms, max {times_ms['max']:.3g} ms"


def _plain(text: str) -> str:
    """A sentence without the colours and the prefix of Gymnasium's logger."""
    return re.sub(r"^(WARN|ERROR): ", "", _COLOUR.sub("", text)).strip().partition("\n")[0]


def _close(environment: Environment) -> Finding:
    try:
        environment.close()
    except Exception as error:  # noqa: BLE001 - as above
        return warning(f"close() raised {type(error).__name__}: {error}", "correct it: what it holds may stay held")
    return ok("it closes")
