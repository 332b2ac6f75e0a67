"""Make the run's environment, if the board allows its code."""

# Gymnasium leaves its spaces' dtypes untyped; what is read of them here is converted at once.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

import importlib
from typing import Any

import gymnasium
import gymnasium.wrappers

from fleet_protocol.exit_codes import ExitCode, ProgramError

Environment = gymnasium.Env[Any, Any]


def make_environment(env_id: str, env_kwargs: dict[str, Any], *, allowed: list[str]) -> Environment:
    """Make one environment: of Gymnasium's registry, or of a class in an installed package.

    Args:
        env_id: A registered id (`CartPole-v1`), `module:id` (registered when the module is imported), or
            `package.module:Class`.
        env_kwargs: Passed on to the environment; `max_episode_steps` truncates its episodes and is not passed on.
        allowed: Module prefixes whose code this board runs. Checked before anything is imported or called.

    Raises:
        ProgramError: Unknown, not allowed, a package is missing, or the environment itself raised.
    """
    module, separator, name = env_id.partition(":")
    if separator:
        _require_allowed(module, env_id, allowed)
    try:
        if separator and name.isidentifier():
            return _make_of_class(env_id, module, name, dict(env_kwargs))
        return _make_registered(env_id, module if separator else "", env_kwargs, allowed)
    except ProgramError:
        raise
    except gymnasium.error.DependencyNotInstalled as error:
        raise ProgramError(ExitCode.DEPENDENCY_MISSING, f"environment {env_id}: {error}") from error
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ProgramError(ExitCode.ENVIRONMENT_UNKNOWN, f"environment {env_id!r} is unknown here: {error}") from error
    except Exception as error:  # the environment is somebody else's code, and may raise anything
        raise ProgramError(
            ExitCode.ENVIRONMENT_FAILED, f"environment {env_id} could not be made: {type(error).__name__}: {error}"
        ) from error


def _make_registered(env_id: str, module: str, env_kwargs: dict[str, Any], allowed: list[str]) -> Environment:
    if module:
        importlib.import_module(module)
        env_id = env_id.partition(":")[2]
    spec = gymnasium.spec(env_id)
    _require_environment_class(spec.entry_point, env_id, allowed)
    return gymnasium.make(env_id, disable_env_checker=True, **env_kwargs)


def _make_of_class(env_id: str, module: str, name: str, env_kwargs: dict[str, Any]) -> Environment:
    made_by = getattr(importlib.import_module(module), name, None)
    if made_by is None:
        raise ProgramError(ExitCode.ENVIRONMENT_UNKNOWN, f"environment {env_id}: {module} has nothing of this name")
    if not _is_environment_class(made_by):
        raise ProgramError(ExitCode.ENVIRONMENT_REFUSED, f"environment {env_id}: {name} is no gymnasium.Env")
    max_episode_steps = env_kwargs.pop("max_episode_steps", None)
    environment: Environment = made_by(**env_kwargs)
    if max_episode_steps is None:
        return environment
    return gymnasium.wrappers.TimeLimit(environment, max_episode_steps)


def _require_allowed(module: str, env_id: str, allowed: list[str]) -> None:
    if not any(f"{module}.".startswith(prefix if prefix.endswith(".") else f"{prefix}.") for prefix in allowed):
        raise ProgramError(
            ExitCode.ENVIRONMENT_REFUSED,
            f"environment {env_id} runs code of {module!r}, which this board does not allow; its owner can add it "
            f"to allowed_environments (--allow-env {module})",
        )


def _require_environment_class(entry_point: object, env_id: str, allowed: list[str]) -> None:
    module, _, name = entry_point.partition(":") if isinstance(entry_point, str) else ("", "", "")
    if not module:
        raise ProgramError(ExitCode.ENVIRONMENT_REFUSED, f"environment {env_id} names no module:Class to check")
    _require_allowed(module, env_id, allowed)
    if not _is_environment_class(getattr(importlib.import_module(module), name, None)):
        raise ProgramError(ExitCode.ENVIRONMENT_REFUSED, f"environment {env_id}: {entry_point} is no gymnasium.Env")


def _is_environment_class(target: object) -> bool:
    return isinstance(target, type) and issubclass(target, gymnasium.Env)
