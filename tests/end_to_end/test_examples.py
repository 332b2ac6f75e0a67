"""The examples' settings and the page about one's own environment do what they say."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cloud_learner.config import LearnerSettings
from fleet_protocol.settings import load_settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/own-environment.md").read_text(encoding="utf-8")
SETTINGS = sorted((ROOT / "examples").glob("*.toml"))
MAKE = """
import sys
from pathlib import Path
from cloud_learner.config import LearnerSettings
from edge_actor.config import BoardSettings
from edge_actor.environments import make_environment
from fleet_protocol.settings import load_settings

path = Path(sys.argv[1])
settings = load_settings(LearnerSettings, "learner", file=path, environ={})
assert settings.target_return is not None
allowed = load_settings(BoardSettings, "board", file=path, environ={}).allowed_environments
environment = make_environment(settings.env_id, dict(settings.env_kwargs), allowed=allowed)
environment.reset(seed=0)
environment.close()
"""
TASKS = [path for path in SETTINGS if path.name != "pyproject.toml"]


def run(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """A command line of the docs, with the repository's root as its folder."""
    words = shlex.split(command.replace("edgerl demo", f"edgerl demo --report {folder / 'report.json'}", 1))
    return subprocess.run(
        [str(Path(sys.executable).parent / words[0]), *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_page_of_examples_names_each_settings_file_once():
    listed = re.findall(r"edgerl demo -c examples/(\S+)", (ROOT / "examples/README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == [path.name for path in TASKS]


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.name)
def test_settings_hold_and_their_environment_can_be_made_on_a_board_that_has_them(path: Path):
    # In a process of its own, as on a board: some simulators do not stand each other's libraries in one.
    subprocess.run([sys.executable, "-c", MAKE, path], check=True, timeout=60)


def test_a_maze_that_needs_a_memory_is_solved_by_its_command(tmp_path: Path):
    ended = run("edgerl demo -c examples/tmaze.toml", tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["reached"]
    assert report["evaluation"]["return_mean"] > 0.9
    assert report["trajectories"]["add_up"]


def test_the_doctor_of_the_page_finds_the_thermostat_sound(tmp_path: Path):
    command = next(line for line in PAGE.splitlines() if line.startswith("edgerl doctor env"))
    ended = run(command, tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "problem " not in ended.stdout


def test_the_settings_of_the_page_hold(tmp_path: Path):
    path = tmp_path / "thermostat-on-boards.toml"
    path.write_text(PAGE.split("```toml\n")[1].split("```")[0], encoding="utf-8")
    settings = load_settings(LearnerSettings, "learner", file=path, environ={})
    assert (settings.control_hz, settings.safe_action) == (0.5, [0.0])
