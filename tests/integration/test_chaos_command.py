"""`edgerl chaos` calls no fault survived that was not shown to be: real pytest runs of samples, and of one fault."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fleet_protocol.exit_codes import ExitCode

ROOT = Path(__file__).parents[2]
SAMPLES = """
import pytest

def test_F1_passes(): pass
def test_F1_passes_too(): pass
def test_F2_passes(): pass
@pytest.mark.thorough
def test_F2_fails_in_the_full_matrix(): raise ValueError("it was lost\\nand more")
def test_F3_skips(): pytest.skip("no mosquitto")
@pytest.fixture
def broken():
    yield
    raise OSError("not ended")
def test_F4_fails_while_it_is_taken_down(broken): pass
@pytest.mark.thorough
def test_F5_is_thorough(): pass
@pytest.mark.everyday
def test_F6_is_for_every_day(): pass
"""


def edgerl(*arguments: str, root: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", "from edgerl.cli import main; main()", "chaos", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A checkout with our catalogue and selection, and tests that pass, fail and skip as they say."""
    for package in ("edgerl", "fleet_protocol"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "docs").mkdir()
    (tmp_path / "tests/chaos").mkdir(parents=True)
    shutil.copy(ROOT / "docs/faults.md", tmp_path / "docs")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "tests/chaos/conftest.py", tmp_path / "tests/chaos")
    (tmp_path / "tests/chaos/test_samples.py").write_text(SAMPLES, encoding="utf-8")
    return tmp_path


def verdicts(said: "subprocess.CompletedProcess[str]") -> dict[str, tuple[bool, str]]:
    answer: dict[str, Any] = json.loads(said.stdout)
    assert answer["schema"] == 1
    return {scenario["id"]: (scenario["passed"], scenario["reason"]) for scenario in answer["scenarios"]}


def test_a_fault_passes_only_when_all_of_its_tests_have_run_and_passed(sample: Path):
    said = edgerl("--format", "json", "--json", "kept.json", root=sample)
    found = verdicts(said)
    assert {fault: passed for fault, (passed, _) in found.items()} == {
        "F1": True,
        "F2": False,
        "F3": False,
        "F4": False,
        "F5": True,
        "F6": True,
    }
    assert found["F2"][1] == "test_F2_fails_in_the_full_matrix: ValueError: it was lost (call)"
    assert found["F3"][1] == "test_F3_skips: skipped: no mosquitto"
    assert "not ended (teardown)" in found["F4"][1]
    assert found["F1"][1] == ""
    assert said.returncode == ExitCode.SCENARIO_FAILED
    assert json.loads((sample / "kept.json").read_text(encoding="utf-8")) == json.loads(said.stdout)


def test_quick_leaves_out_what_is_thorough_and_says_nothing_of_it(sample: Path):
    found = verdicts(edgerl("--quick", "--format", "json", root=sample))
    assert list(found) == ["F1", "F2", "F3", "F4", "F6"]
    assert found["F2"][0]


def test_only_runs_what_is_named(sample: Path):
    said = edgerl("--only", "F1,f5", "--format", "json", root=sample)
    assert verdicts(said) == {"F1": (True, ""), "F5": (True, "")}
    assert said.returncode == ExitCode.OK


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--only", "F13"], "F13 has no test yet"),
        (["--only", "F99"], "no fault of the catalogue"),
        (["--quick", "--only", "F5"], "no test of F5 is in this selection (some run only without --quick)"),
    ],
)
def test_a_fault_without_a_test_is_an_error_and_no_pass(flags: list[str], sentence: str, sample: Path):
    said = edgerl(*flags, "--format", "json", root=sample)
    assert said.returncode == ExitCode.USAGE
    assert sentence in said.stderr
    assert said.stdout == ""


def test_a_scenario_that_the_session_did_not_reach_is_no_pass(sample: Path):
    (sample / "tests/chaos/test_last.py").write_text("def test_F7_ends_all():\n    import os; os._exit(3)\n", "utf-8")
    said = edgerl("--format", "json", root=sample)
    assert said.returncode == ExitCode.SCENARIO_FAILED
    assert "before all scenarios had run" in said.stderr
    assert said.stdout == ""


def test_a_file_that_cannot_be_read_is_no_pass(sample: Path):
    (sample / "tests/chaos/test_broken.py").write_text("import nothing_of_that_name\n", encoding="utf-8")
    said = edgerl("--format", "json", root=sample)
    assert said.returncode == ExitCode.SCENARIO_FAILED
    assert said.stdout == ""


def test_an_installed_wheel_says_where_the_scenarios_are(sample: Path):
    shutil.rmtree(sample / "tests")
    said = edgerl("--list", root=sample)
    assert said.returncode == ExitCode.DEPENDENCY_MISSING
    assert "clone the repository" in said.stderr


def test_all_tests_together_run_only_those_of_every_day(sample: Path):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    said = subprocess.run(command, cwd=sample, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout
    assert "1 passed, 7 deselected" in said.stdout


def test_list_tells_every_fault_and_its_tests():
    listed = json.loads(edgerl("--list", "--format", "json").stdout)["faults"]
    tests = {fault["id"]: fault["tests"] for fault in listed}
    assert len(tests) == 42
    assert any("test_learner_killed.py::test_F19_" in test for test in tests["F19"])
    assert not tests["F13"]
    assert "not yet" in edgerl("--list").stdout


def test_a_scenario_of_the_matrix_runs_from_the_command():
    said = edgerl("--quick", "--only", "F12", "--format", "json")
    assert verdicts(said) == {"F12": (True, "")}, said.stderr
    assert said.returncode == ExitCode.OK
