"""Can this machine act? Python, a TFLite runtime that runs policies, the environment's library, the board itself."""

import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from edge_actor.board_health import BoardHealth
from edge_actor.config import BoardSettings, is_allowed
from edgerl.doctor.checks import Finding, Probe, check_broker, check_folder, ok, problem, warning
from edgerl.doctor.child import ChildFailed, ask_child
from edgerl.doctor.policies import RECIPES
from fleet_monitor.conditions import power_words
from fleet_protocol.exit_codes import ExitCode

_PYTHONS: Final = ((3, 11), (3, 13))
_YEARS: Final = (2025, 2100)
"""A board without a battery begins in 1970, or when its card was written."""
_LITTLE_MEMORY_MB: Final = 200.0
_HOT_C: Final = 75.0
_LITTLE_DISK_MB: Final = 200.0
_PLUGINS: Final = "gymnasium.envs"
"""The group of entry points under which Gymnasium before 1.0 imported whatever was installed."""
_INSTALL: Final = "pip install 'edgerl[actor]' (64-bit), or 'edgerl[actor-tflite]' (32-bit, Python 3.11)"


def board_probes(settings: BoardSettings, *, root: Path = Path("/")) -> dict[str, Probe]:
    """The checks of a board, by id.

    Args:
        settings: What its owner decided.
        root: The folder that holds the board's `proc` and `sys`.
    """
    health = BoardHealth(root=root)
    return {
        "python": lambda: judge_python(sys.version_info[:2]),
        "runtime": check_runtime,
        "gymnasium": lambda: _package("gymnasium", "no environment can be made", _INSTALL),
        "plugins": lambda: judge_plugins(find_plugins(), settings.allowed_environments),
        "zstandard": lambda: _optional("zstandard", "what it sends is larger"),
        "psutil": lambda: _optional("psutil", "the board cannot tell its CPU and memory"),
        "clock": lambda: judge_clock(datetime.now(UTC)),
        "memory": lambda: judge_memory(health.read().memory_available_mb),
        "temperature": lambda: judge_temperature(health.read().temperature_c),
        "power": lambda: judge_power(health.read().throttled),
        "state": lambda: check_folder(
            Path(settings.state),
            name="the state folder",
            little_mb=_LITTLE_DISK_MB,
            advice="choose another with --state",
        ),
        "root_key": lambda: check_root_key(settings),
        "broker": lambda: check_broker(settings),
    }


def check_root_key(settings: BoardSettings) -> Finding:
    """Whom will this board believe?"""
    if not settings.root_key:
        return ok("no root key: unsigned messages are acted on, from a broker on this machine alone")
    from fleet_protocol.keys import key_id, load_public  # noqa: PLC0415 - not free, and only where there are keys

    return ok(f"only what root {key_id(load_public(Path(settings.root_key)))} vouches for is acted on")


def find_plugins() -> dict[str, str]:
    """Installed packages that offer Gymnasium environments as a plugin, and the module of each; nothing is imported."""
    offered = importlib.metadata.entry_points(group=_PLUGINS)
    return {point.dist.name if point.dist else point.name: point.module for point in offered}


def judge_plugins(modules: Mapping[str, str], allowed: Sequence[str]) -> Finding:
    """Whose code may a run name? Gymnasium 1 imports no plugin by itself, and a board only what is allowed."""
    if not modules:
        return ok(f"no installed package offers environments as a plugin; allowed are {', '.join(allowed)}")
    said = ", ".join(
        f"{name} ({module}: {'allowed' if is_allowed(module, list(allowed)) else 'not allowed, and never imported'})"
        for name, module in sorted(modules.items())
    )
    return ok(f"installed packages offer environments: {said}")


def check_runtime() -> Finding:
    """Run two real policies with the TFLite runtime that is installed."""
    try:
        return judge_runtime(ask_child("runtime"))
    except ChildFailed as error:
        advice = "install a runtime that was built for this processor: " + _INSTALL
        return problem(f"the TFLite runtime crashed: {error}", advice, ExitCode.DEPENDENCY_MISSING)


def judge_runtime(facts: Mapping[str, Any]) -> Finding:
    """What `child.runtime_facts` means.

    A runtime that can be imported may still refuse every model, or only those of the learner's default recipe.
    """
    if "broken" in facts:
        return problem(f"no TFLite runtime can be used: {facts['broken']}", _INSTALL, ExitCode.DEPENDENCY_MISSING)
    simple, default = (facts["policies"][recipe] for recipe in RECIPES)
    runtime = f"{facts['runtime']} with numpy {facts['numpy']}"
    if "failed" in simple:
        found = f"{runtime} is installed, but runs no model: {simple['failed']}"
        numpy_1 = "tflite-runtime 2.14 needs numpy 1: pip install 'numpy<2'"
        return problem(
            found, numpy_1 if facts["runtime"].startswith("tflite-runtime") else _INSTALL, ExitCode.DEPENDENCY_MISSING
        )
    if not simple["is_right"] or not default.get("is_right", True):
        found = f"{runtime} computes a policy wrongly: {simple['logits']}, {default.get('logits')}"
        return problem(found, f"install another runtime: {_INSTALL}", ExitCode.DEPENDENCY_MISSING)
    ran = f"{runtime} runs policies; a small one took {simple['inference_us']:.0f} us"
    if "failed" in default:
        return warning(
            f"{ran}. It refuses the learner's default, {RECIPES[1]}",
            f'tell the learner: recipe = "{RECIPES[0]}"',
        )
    return ok(ran)


def judge_python(version: tuple[int, ...]) -> Finding:
    """Is this a Python that EdgeRL runs on?"""
    lowest, highest = _PYTHONS
    found = f"Python {version[0]}.{version[1]} on {platform.machine()}"
    if lowest <= version <= highest:
        return ok(found)
    return problem(found, "EdgeRL needs Python 3.11 to 3.13", ExitCode.DEPENDENCY_MISSING)


def judge_clock(now: datetime) -> Finding:
    """Is the year one in which this can be run?"""
    found = f"the clock says {now:%Y-%m-%d %H:%M} UTC"
    first, last = _YEARS
    if first <= now.year <= last:
        return ok(found)
    return problem(
        found,
        "set it (`timedatectl set-ntp true`, or `date -s`): what a learner sends expires, and would be refused",
        ExitCode.MACHINE_UNFIT,
    )


def judge_memory(available_mb: float | None) -> Finding:
    """Is there room for an agent?"""
    if available_mb is None:
        return warning("memory cannot be told", "install psutil, or look with `free -m`: an agent takes about 100 MB")
    found = f"{available_mb:,.0f} MB of memory available; an agent with one worker takes about 100 MB"
    return (
        ok(found) if available_mb >= _LITTLE_MEMORY_MB else warning(found, "end other programs, or take fewer workers")
    )


def judge_temperature(temperature_c: float | None) -> Finding:
    """Will the processor be slowed by heat?"""
    if temperature_c is None:
        return ok("this machine tells no temperature")
    found = f"the processor is at {temperature_c:.0f} C"
    return ok(found) if temperature_c < _HOT_C else warning(found, "cool it: Raspberry Pis slow down from 80 C on")


def judge_power(throttled: int | None) -> Finding:
    """Has the board been slowed by a weak supply or by heat since it started?"""
    if throttled is None:
        return ok("this machine tells nothing of its power supply")
    words = power_words(throttled)
    if not words:
        return ok("no under-voltage and no throttling since the board started")
    return warning(", ".join(words), "take a stronger power supply and a short cable, and cool the board")


def _package(name: str, without: str, advice: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return problem(f"{name} is not installed: {without}", advice, ExitCode.DEPENDENCY_MISSING)
    return ok(f"{name} {importlib.metadata.version(name)}")


def _optional(name: str, without: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return warning(f"{name} is not installed: {without}", f"pip install {name}")
    return ok(f"{name} {importlib.metadata.version(name)}")
