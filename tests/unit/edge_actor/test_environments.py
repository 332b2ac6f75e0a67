"""An environment is code: only what the board allows is imported or called, and every refusal says why."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from edge_actor.environments import action_spec, environment_code, make_environment, observation_spec
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.spaces import BoxSpec, DiscreteSpec

HERE = __name__
GYMNASIUM = ["gymnasium."]
called: list[str] = []


class Plain(gymnasium.Env[np.ndarray, int]):
    """Keeps its argument, or raises what it is told to."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, size: int = 0, failure: str = "") -> None:
        called.append("Plain")
        self.size = size
        if failure == "dependency":
            raise gymnasium.error.DependencyNotInstalled("no simulator")
        if failure:
            raise RuntimeError(failure)


def no_environment(**_: Any) -> Plain:
    called.append("no_environment")
    return Plain()


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    called.clear()
    entry_points = {"Plain-v0": f"{HERE}:Plain", "Function-v0": f"{HERE}:no_environment", "Object-v0": Plain}
    for name, entry_point in entry_points.items():
        gymnasium.register(f"edgerl-test/{name}", entry_point)
    yield
    for name in entry_points:
        del gymnasium.registry[f"edgerl-test/{name}"]


def refusal_of(env_id: str, *, allowed: list[str], **kwargs: Any) -> ProgramError:
    with pytest.raises(ProgramError) as refusal:
        make_environment(env_id, kwargs, allowed=allowed)
    assert env_id in str(refusal.value)
    return refusal.value


def test_an_environment_of_gymnasium_is_made():
    environment = make_environment("CartPole-v1", {"max_episode_steps": 7}, allowed=GYMNASIUM)
    assert environment.spec is not None
    assert environment.spec.max_episode_steps == 7
    environment.close()


def test_a_module_that_the_board_allows_may_bring_one_with_its_arguments():
    environment = make_environment("edgerl-test/Plain-v0", {"size": 3}, allowed=[HERE])
    assert environment.unwrapped.size == 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("env_id", ["NoSuch-v0", "CartPole-v999", "no/such/id", "", "CartPole"])
def test_an_unknown_id_is_named(env_id: str):
    assert refusal_of(env_id, allowed=GYMNASIUM).exit_code == ExitCode.ENVIRONMENT_UNKNOWN


@pytest.mark.parametrize("allowed", [GYMNASIUM, [], [HERE[:-1]], [f"{HERE}.sub"]], ids=str)
def test_a_registered_class_outside_the_allowed_modules_is_refused_uncalled(allowed: list[str]):
    assert refusal_of("edgerl-test/Plain-v0", allowed=allowed).exit_code == ExitCode.ENVIRONMENT_REFUSED
    assert called == []


def test_a_module_that_is_not_allowed_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "intruder_module.py").write_text("raise SystemExit('it was imported')\n", encoding="ascii")
    monkeypatch.syspath_prepend(tmp_path)
    refusal = refusal_of("intruder_module:CartPole-v1", allowed=GYMNASIUM)
    assert refusal.exit_code == ExitCode.ENVIRONMENT_REFUSED
    assert "--allow-env intruder_module" in str(refusal)
    assert "intruder_module" not in sys.modules


def test_an_allowed_module_that_is_not_there_makes_the_id_unknown():
    refusal = refusal_of("not_installed_here:X-v0", allowed=["not_installed_here"])
    assert refusal.exit_code == ExitCode.ENVIRONMENT_UNKNOWN


@pytest.mark.parametrize("name", ["Function-v0", "Object-v0"])
def test_an_entry_point_that_names_no_environment_class_is_refused_uncalled(name: str):
    refusal = refusal_of(f"edgerl-test/{name}", allowed=[HERE])
    assert refusal.exit_code == ExitCode.ENVIRONMENT_REFUSED
    assert called == []


@pytest.mark.parametrize(
    ("failure", "exit_code"),
    [("dependency", ExitCode.DEPENDENCY_MISSING), ("the sensor is gone", ExitCode.ENVIRONMENT_FAILED)],
)
def test_what_a_constructor_raises_is_told(failure: str, exit_code: ExitCode):
    assert refusal_of("edgerl-test/Plain-v0", allowed=[HERE], failure=failure).exit_code == exit_code


@pytest.mark.parametrize("kwargs", [{"unknown": 1}, {"disable_env_checker": False}, {"id": "CartPole-v1"}], ids=str)
def test_arguments_that_nobody_takes_are_told(kwargs: dict[str, Any]):
    assert refusal_of("edgerl-test/Plain-v0", allowed=[HERE], **kwargs).exit_code == ExitCode.ENVIRONMENT_FAILED


def test_a_failure_inside_environment_code_is_the_environments():
    with pytest.raises(ProgramError, match="ZeroDivisionError") as failed, environment_code():
        _ = 1 / 0
    assert failed.value.exit_code == ExitCode.ENVIRONMENT_FAILED
    with pytest.raises(KeyboardInterrupt), environment_code():
        raise KeyboardInterrupt


def box(*shape: int, dtype: Any = np.float32, low: float = -1, high: float = 1) -> spaces.Box:
    return spaces.Box(low, high, shape, dtype)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"camera": box(2)}),
        box(84, 84, 3),
        box(2, dtype=np.uint8, low=0, high=255),
        spaces.MultiDiscrete([2, 3]),
        spaces.Discrete(3),
        spaces.Tuple([box(2)]),
        box(),
    ],
    ids=str,
)
def test_an_observation_that_policies_cannot_read_is_refused(space: spaces.Space[Any]):
    with pytest.raises(ProgramError) as refusal:
        observation_spec(space)
    assert refusal.value.exit_code == ExitCode.SPACE_UNSUPPORTED


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(2),
        spaces.Dict({"arm": box(2)}),
        spaces.Discrete(1),
        box(2, dtype=np.int32),
        box(2, 2),
    ],
    ids=str,
)
def test_a_space_that_policies_cannot_act_in_is_refused(space: spaces.Space[Any]):
    with pytest.raises(ProgramError) as refusal:
        action_spec(space)
    assert refusal.value.exit_code == ExitCode.SPACE_UNSUPPORTED


def test_what_is_supported_is_described_as_it_travels():
    assert observation_spec(box(3, dtype=np.float64)) == BoxSpec(shape=(3,), dtype="float32")
    assert action_spec(spaces.Discrete(3, start=-1)) == DiscreteSpec(n=3, start=-1)
    assert action_spec(box(2, dtype=np.float64)) == BoxSpec(shape=(2,), dtype="float64", low=[-1, -1], high=[1, 1])
    assert action_spec(box(1, low=-np.inf, high=np.inf)) == BoxSpec(shape=(1,), dtype="float32")
