"""`edgerl convert` as a user runs it: an own package in, a file that a board runs and a report out.

Runs where litert-torch is installed: `make test-convert`, in an environment of its own.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from edge_actor.policy import Policy
from fleet_protocol.exit_codes import ExitCode

EDGERL: Final = str(Path(sys.executable).with_name("edgerl"))
POLICIES: Final = """
import torch
from torch import nn


def make(width=4, actions=2):
    torch.manual_seed(0)
    layers = nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64), nn.ELU()
    return nn.Sequential(nn.Linear(width, 64), *layers, nn.Linear(64, actions))


def stacked():
    return make(width=8)


class Continuous(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.log_std = make(3, 1), nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return {"mean": self.mean(x), "log_std": self.log_std}


def broken():
    raise FileNotFoundError("weights.pt")


def certain():
    module = make()
    with torch.no_grad():
        module[5].bias[0] = 1000.0
    return module
"""

if importlib.util.find_spec("litert_torch") is None and not os.environ.get("EDGERL_TEST_CONVERT"):
    pytest.skip("litert-torch is not installed here: make test-convert", allow_module_level=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_policies.py").write_text(POLICIES, encoding="utf-8")
    (tmp_path / "run.toml").write_text('[learner]\nenv_id = "CartPole-v1"\nframe_stack = 2\n', encoding="utf-8")
    return tmp_path


def convert(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [EDGERL, "convert", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("factory", "recipe", "flags", "width"),
    [
        ("make", "int8-dynamic", ("--env", "CartPole-v1"), 4),
        ("stacked", "float32", ("-c", "run.toml"), 8),
        ("Continuous", "int8-dynamic", ("--env", "Pendulum-v1"), 3),
    ],
)
def test_a_module_becomes_a_file_that_boards_run(
    factory: str, recipe: str, flags: tuple[str, ...], width: int, folder: Path
):
    asked = (f"my_policies:{factory}", "--recipe", recipe, *flags, "--episodes", "4")
    done = convert(*asked, "--out", "own.tflite", "--report", "report.json", folder=folder)
    assert done.returncode == 0, done.stderr
    model = (folder / "own.tflite").read_bytes()
    for copies in (1, 16):
        policy = Policy(model, copies=copies)
        policy.warm_up()
        assert policy.observation.shape == (copies, width)
        assert np.isfinite(policy.outputs[0]).all()
    report = json.loads((folder / "report.json").read_text())
    assert (report["schema"], report["recipe"]) == (1, recipe)
    assert report["environment"] == policy_environment(flags)
    assert report["fidelity"]["bytes"] == len(model)
    assert report["fidelity"]["kl_mean"] < 1e-3
    assert report["fidelity"]["delegation"] == {"partitions": 1, "left": []}
    assert report["returns"]["episodes"] == 4
    assert "agreement" in done.stdout


def policy_environment(flags: tuple[str, ...]) -> str:
    return flags[1] if flags[0] == "--env" else "CartPole-v1"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("my_policies.make",), "expected package.module:factory"),
        (("my_polices:make",), "there is no module my_polices; install its package"),
        (("my_policies:mkae",), "my_policies has no function mkae"),
        (("my_policies:broken",), "my_policies:broken fails: FileNotFoundError: weights.pt"),
        (("my_policies:make", "--recipe", "int9"), "did you mean 'int8'"),
        (("my_policies:make", "--recipe", "int8"), "convert with float32"),
        (("my_policies:make", "--env", "Pendulum-v1"), "fails on float32 observations [3, 3]"),
        (("my_policies:Continuous", "--env", "CartPole-v1"), "fails on float32 observations [3, 4]"),
        (("my_policies:certain",), "boards would refuse the file (saturated)"),
    ],
    ids=str,
)
def test_what_cannot_be_converted_is_said_in_a_sentence(arguments: tuple[str, ...], sentence: str, folder: Path):
    done = convert(*arguments, folder=folder)
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (folder / "policy.tflite").exists()
