"""Make the run's environment, if the board allows its code."""

# Gymnasium leaves its spaces' dtypes untyped; what is read of them here is converted at once.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

import importlib
from typing import Any

import gymnasium

from fleet_protocol.exit_codes import ExitCode, ProgramError

Environment = gymnasium.Env[Any, Any]


def make_environment(env_id: str, env_kwargs: dict[str, Any], *, allowed: list[str]) -> Environment:
    """Make one environment from Gymnasium's registry.

    Args:
        env_id: A registered id, or `module:id` where the board allows that module.
        env_kwargs: Passed on to the environment.
        allowed: Module prefixes whose code this board runs. Checked before anything is imported or called.

    Raises:
        ProgramError: Unknown, not allowed, a package is missing, or the environment itself raised.
    """
    module, separator, _ = env_id.partition(":")
    if separator:
        _require_allowed(module, env_id, allowed)
    try:
        spec = gymnasium.spec(env_id)
        _require_environment_class(spec.entry_point, env_id, allowed)
        return gymnasium.make(env_id, disable_env_checker=True, **env_kwargs)
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
    target = getattr(importlib.import_module(module), name, None)
    if not (isinstance(target, type) and issubclass(target, gymnasium.Env)):
        raise ProgramError(ExitCode.ENVIRONMENT_REFUSED, f"environment {env_id}: {entry_point} is no gymnasium.Env")
