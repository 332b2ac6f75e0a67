"""Make the run's environment, if the board allows its code."""

# Gymnasium leaves its spaces' dtypes untyped; what is read of them here is converted at once.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

import importlib
from typing import Any

import gymnasium
import gymnasium.wrappers

from edge_actor.config import is_allowed
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
        ProgramError: Unknown, not allowed, a package is missing, it has no spaces, or the environment itself raised.
    """
    module, separator, name = env_id.partition(":")
    if separator:
        _require_allowed(module, env_id, allowed)
    module = module if separator else ""
    try:
        if separator and name.isidentifier():
            environment = _make_of_class(env_id, module, name, dict(env_kwargs))
        else:
            environment = _make_registered(env_id, module, env_kwargs, allowed)
        _require_spaces(environment, env_id)
    except ProgramError:
        raise
    except gymnasium.error.DependencyNotInstalled as error:
        raise ProgramError(ExitCode.DEPENDENCY_MISSING, f"environment {env_id}: {error}") from error
    except ModuleNotFoundError as error:
        raise _without_module(error, env_id, module) from error
    except gymnasium.error.Error as error:
        raise _unknown(error, env_id) from error
    except Exception as error:  # the environment is somebody else's code, and may raise anything
        raise ProgramError(
            ExitCode.ENVIRONMENT_FAILED, f"environment {env_id} could not be made: {type(error).__name__}: {error}"
        ) from error
    return environment


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
        raise ProgramError(
            ExitCode.ENVIRONMENT_UNKNOWN,
            f"environment {env_id}: {module} has nothing of this name; check the spelling, and the version of its "
            "package on this board",
        )
    if not _is_environment_class(made_by):
        raise _no_class(env_id, name)
    max_episode_steps = env_kwargs.pop("max_episode_steps", None)
    environment: Environment = made_by(**env_kwargs)
    if max_episode_steps is None:
        return environment
    return gymnasium.wrappers.TimeLimit(environment, max_episode_steps)


def _require_allowed(module: str, env_id: str, allowed: list[str]) -> None:
    if not is_allowed(module, allowed):
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
        raise _no_class(env_id, f"{module}:{name}")


def _require_spaces(environment: Environment, env_id: str) -> None:
    for name in ("observation_space", "action_space"):
        found = getattr(environment, name, None)
        if not isinstance(found, gymnasium.Space):
            raise ProgramError(
                ExitCode.SPACE_UNSUPPORTED,
                f"environment {env_id}: its {name} is {found!r}, expected a gymnasium.Space; set it in the class or in "
                "__init__",
            )


def _is_environment_class(target: object) -> bool:
    return isinstance(target, type) and issubclass(target, gymnasium.Env)


def _no_class(env_id: str, name: str) -> ProgramError:
    return ProgramError(
        ExitCode.ENVIRONMENT_REFUSED,
        f"environment {env_id}: {name} is no gymnasium.Env; name a class that is a subclass of it",
    )


def _unknown(error: Exception, env_id: str) -> ProgramError:
    return ProgramError(
        ExitCode.ENVIRONMENT_UNKNOWN,
        f"environment {env_id!r} is unknown here: {error}; check the spelling, and that its package is installed in "
        "this board's Python",
    )


def _without_module(error: ModuleNotFoundError, env_id: str, module: str) -> ProgramError:
    """Tell a package that is not here from one that is here and lacks another."""
    if f"{module}.".startswith(f"{error.name}."):
        return _unknown(error, env_id)
    return ProgramError(
        ExitCode.DEPENDENCY_MISSING,
        f"environment {env_id} needs a package that is missing here: {error}; install it in this board's Python (an "
        "extra of the environment's own package may bring it)",
    )
