"""`edgerl compress` as an operator runs it: a checkpoint in, a file that a board runs and a report out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_learner.algorithms.making import make_algorithm
from cloud_learner.checkpoints import StateFolder
from cloud_learner.config import LearnerSettings
from cloud_learner.delivery_ledger import DeliveryLedger
from cloud_learner.run_start import choose_device
from cloud_learner.saved_run import SavedRun
from edge_actor.environment_copy import EnvironmentCopy
from edge_actor.environments import make_environment
from edge_actor.policy import Policy
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.messages import RunSpec

EDGERL = str(Path(sys.executable).with_name("edgerl"))
CATCH = "edgerl_examples.catch:Catch"


def checkpoint_of(folder: Path, env_id: str, **changes: Any) -> Path:
    """What a learner of this task has saved before it learned anything."""
    settings = LearnerSettings(env_id=env_id, **changes)
    copy = EnvironmentCopy(lambda: make_environment(env_id, {}, allowed=["gymnasium", "edgerl_examples"]))
    spaces = copy.observation_space, copy.action_space
    copy.close()
    algorithm = make_algorithm(settings, spaces, frame_stack=settings.frame_stack, device=choose_device("cpu"))
    SavedRun(
        run=RunSpec(run_id="r", generation=1, env_id=env_id, unroll_length=8, frame_stack=settings.frame_stack),
        version=3,
        spaces=spaces,
        algorithm=algorithm.state_dict(),
        ledger=DeliveryLedger(),
        progress={"env_steps": 0, "episodes": 0, "updates": 0},
        architecture=settings.architecture,
    ).save(StateFolder(folder))
    return folder


def compress(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [EDGERL, "compress", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("task", "recipe", "flags"),
    [
        ({"env_id": "CartPole-v1"}, "int8-dynamic", ("--episodes", "4")),
        ({"env_id": "CartPole-v1"}, "distill(24,16)+prune(0.3)+qat+int8-full", ("--episodes", "4")),
        ({"env_id": "Pendulum-v1"}, "distill(16)+qat+int8-dynamic", ("--episodes", "2")),
        ({"env_id": "CartPole-v1", "memory": "gru", "memory_size": 24}, "distill(16)+int8-dynamic", ()),
        ({"env_id": "CartPole-v1"}, "int8-full", ("--floor", "0.5", "--episodes", "0")),
    ],
    ids=str,
)
def test_a_checkpoint_becomes_a_file_that_boards_run(
    task: dict[str, Any], recipe: str, flags: tuple[str, ...], tmp_path: Path
):
    checkpoint_of(tmp_path / "state", **task)
    steps = ("--steps", "30", "--report", "report.json", "--out", "small.tflite")
    done = compress("state", "--recipe", recipe, *steps, *flags, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    policy = Policy((tmp_path / "small.tflite").read_bytes(), copies=2)
    policy.warm_up()
    assert np.isfinite(policy.outputs[0]).all()
    assert (policy.metadata.run_id, policy.metadata.policy_version) == ("r", 3)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["schema"] == 1
    assert policy.metadata.recipe == report["recipe"]
    assert report["recipe"].startswith(recipe)
    assert report["fidelity"]["bytes"] == len((tmp_path / "small.tflite").read_bytes())
    assert report["fidelity"]["delegation"]["left"] == []
    if "0" not in flags:
        pairs = report["returns"]
        assert pairs["low"] <= pairs["difference"] <= pairs["high"]
        assert f"over {pairs['episodes']} pairs of episodes" in done.stdout
    assert (report["training_s"] > 0.01) == ("distill" in recipe)
    for phase in ("distill", "prune", "qat"):
        assert (f"{phase}: " in done.stderr) == (phase in recipe)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("nowhere",), ExitCode.STATE_UNUSABLE, "nowhere has no checkpoint.pt: give the folder"),
        (("state", "--recipe", "int9"), ExitCode.USAGE, "no step is called 'int9': did you mean 'int8'"),
        (("state", "--recipe", "qat+distill(8)+int8"), ExitCode.USAGE, "in the wrong place, or twice"),
        (("state", "--recipe", "prune(0.99)+int8"), ExitCode.USAGE, "less than one of the 64 units of torso[0]"),
        (("state", "--recipe", "int8+keep(torso[7])"), ExitCode.USAGE, "the policy has no such layer: it has torso[0]"),
        (("state", "--recipe", "float16", "--floor", "0.9"), ExitCode.USAGE, "float16 has none: leave it out"),
        (("state", "--out", "no/where.tflite", "--episodes", "0"), ExitCode.STATE_UNUSABLE, "cannot write no/where"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    arguments: tuple[str, ...], code: ExitCode, sentence: str, tmp_path: Path
):
    checkpoint_of(tmp_path / "state", "CartPole-v1")
    done = compress(*arguments, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_an_environment_that_is_not_allowed_is_not_imported(tmp_path: Path):
    checkpoint_of(tmp_path / "state", CATCH)
    done = compress("state", folder=tmp_path)
    assert done.returncode == ExitCode.ENVIRONMENT_REFUSED, done.stderr
    assert "--allow-env" in done.stderr


def test_a_checkpoint_that_does_not_say_what_its_network_is_made_of_is_named(tmp_path: Path):
    folder = checkpoint_of(tmp_path / "state", "CartPole-v1")
    saved = SavedRun.load(StateFolder(folder))
    assert saved is not None
    SavedRun(
        run=saved.run,
        version=saved.version,
        spaces=saved.spaces,
        algorithm=saved.algorithm,
        ledger=saved.ledger,
        progress=saved.progress,
    ).save(StateFolder(folder))
    done = compress("state", folder=tmp_path)
    assert done.returncode == ExitCode.STATE_UNUSABLE
    assert "let `edgerl learn` of this version go on from it" in " ".join(done.stderr.split())
