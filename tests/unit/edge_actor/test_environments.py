"""An environment is code: only what the board allows is imported or called, and every refusal says why."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from edge_actor.environments import make_environment
from fleet_protocol.exit_codes import ExitCode, ProgramError

HERE = __name__
GYMNASIUM = ["gymnasium."]
called: list[str] = []


class Plain(gymnasium.Env[np.ndarray, np.int64]):
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


class WithoutSpaces(gymnasium.Env[np.ndarray, np.int64]):
    """Forgets to say what is observed and done."""


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


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module that can be imported, and names it."""
    written: list[str] = []

    def write(source: str) -> str:
        name = f"edgerl_test_module_{len(written)}"
        (tmp_path / f"{name}.py").write_text(source, encoding="ascii")
        written.append(name)
        return name

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_a_class_is_made_with_its_arguments():
    environment = make_environment(f"{HERE}:Plain", {"size": 3}, allowed=[HERE])
    assert isinstance(environment, Plain)
    assert environment.size == 3


def test_max_episode_steps_cuts_the_episodes_of_a_class_and_is_not_passed_on():
    environment = make_environment(
        "edgerl_examples.tmaze:TMaze", {"length": 5, "max_episode_steps": 3}, allowed=["edgerl_examples"]
    )
    environment.reset(seed=0)
    assert [environment.step(0)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


def test_a_class_of_a_module_that_is_not_allowed_is_not_even_imported(package: Callable[[str], str]):
    module = package("raise SystemExit('it was imported')\n")
    refusal = refusal_of(f"{module}:Environment", allowed=GYMNASIUM)
    assert refusal.exit_code == ExitCode.ENVIRONMENT_REFUSED
    assert f"--allow-env {module}" in str(refusal)
    assert module not in sys.modules


@pytest.mark.parametrize("name", ["no_environment", "called", "np", "__name__"])
def test_what_is_no_environment_class_is_refused_uncalled(name: str):
    assert refusal_of(f"{HERE}:{name}", allowed=[HERE]).exit_code == ExitCode.ENVIRONMENT_REFUSED
    assert called == []


@pytest.mark.parametrize("env_id", [f"{HERE}:Missing", f"{HERE}.below:Plain"])
def test_a_class_that_is_not_there_is_unknown(env_id: str):
    assert refusal_of(env_id, allowed=[HERE]).exit_code == ExitCode.ENVIRONMENT_UNKNOWN


@pytest.mark.parametrize(
    "source",
    [
        "import edgerl_test_no_such_library\n",
        "import gymnasium\nclass X(gymnasium.Env):\n    def __init__(self): import edgerl_test_no_such_library\n",
    ],
    ids=["import", "constructor"],
)
def test_a_package_that_lacks_another_says_which(package: Callable[[str], str], source: str):
    module = package(source)
    refusal = refusal_of(f"{module}:X", allowed=[module])
    assert refusal.exit_code == ExitCode.DEPENDENCY_MISSING
    assert "edgerl_test_no_such_library" in str(refusal)


def test_a_module_that_fails_on_import_is_told(package: Callable[[str], str]):
    module = package("1 / 0\n")
    refusal = refusal_of(f"{module}:X", allowed=[module])
    assert refusal.exit_code == ExitCode.ENVIRONMENT_FAILED
    assert "ZeroDivisionError" in str(refusal)


def test_an_environment_without_spaces_is_told():
    refusal = refusal_of(f"{HERE}:WithoutSpaces", allowed=[HERE])
    assert refusal.exit_code == ExitCode.SPACE_UNSUPPORTED
    assert "observation_space" in str(refusal)


@pytest.mark.parametrize("steps", [0, -1, "many"])
def test_an_impossible_episode_length_is_told(steps: Any):
    assert refusal_of(f"{HERE}:Plain", allowed=[HERE], max_episode_steps=steps).exit_code == ExitCode.ENVIRONMENT_FAILED


@pytest.mark.parametrize("kwargs", [{"unknown": 1}, {"disable_env_checker": False}, {"id": "CartPole-v1"}], ids=str)
def test_arguments_that_nobody_takes_are_told(kwargs: dict[str, Any]):
    assert refusal_of("edgerl-test/Plain-v0", allowed=[HERE], **kwargs).exit_code == ExitCode.ENVIRONMENT_FAILED
