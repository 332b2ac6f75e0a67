"""How a run begins: what boards are told of frames and clocks, and checkpoints that do not fit."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from cloud_learner.board_book import BoardBook
from cloud_learner.checkpoints import StateFolder, VersionCounter
from cloud_learner.config import LearnerSettings
from cloud_learner.delivery_ledger import DeliveryLedger
from cloud_learner.run_start import _checked, _new_run
from cloud_learner.saved_run import SavedRun
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import Birth, Death, Problem, RunSpec
from fleet_protocol.spaces import BoxSpec, DiscreteSpec


def test_boards_are_told_of_frame_stack_clock_and_safe_action():
    settings = _checked(LearnerSettings(frame_stack=4, control_hz=50.0, safe_action=[0.0, -1.0]))
    run = _new_run(settings, above=0)
    assert (run.frame_stack, run.control_hz, run.safe_action) == (4, 50.0, [0.0, -1.0])
    assert (run.copies, run.max_in_flight) == (1, 0)


def test_without_a_clock_copies_and_windows_in_flight_are_as_they_were_set():
    run = _new_run(_checked(LearnerSettings(copies=7, max_in_flight=3)), above=0)
    assert (run.copies, run.max_in_flight, run.control_hz) == (7, 3, 0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"control_hz": 10.0, "copies": 4},
        {"control_hz": 10.0, "max_in_flight": 1},
        {"memory": "gru", "recipe": "int8-full"},
        {"clip_rho_threshold": 0.5},
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any]):
    with pytest.raises(ProgramError) as refusal:
        _checked(msgspec.structs.replace(LearnerSettings(), **changes))
    assert refusal.value.exit_code == ExitCode.CONFIG
    assert all(name in str(refusal.value) for name in changes)


def make_saved_run() -> SavedRun:
    return SavedRun(
        run=RunSpec(run_id="r", generation=2, env_id="X", unroll_length=4, frame_stack=3),
        version=7,
        spaces=(BoxSpec(shape=(3,), dtype="float32"), DiscreteSpec(n=3)),
        algorithm={"network": {"weight": torch.ones(2)}},
        ledger=DeliveryLedger(),
        progress={"env_steps": 5, "episodes": 2, "updates": 1},
    )


def test_a_run_comes_back_as_it_was_saved(tmp_path: Path):
    saved = make_saved_run()
    saved.save(StateFolder(tmp_path))
    loaded = SavedRun.load(StateFolder(tmp_path))
    assert loaded is not None
    for name in ("run", "version", "spaces", "progress"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert loaded.ledger.totals() == saved.ledger.totals()
    assert torch.equal(loaded.algorithm["network"]["weight"], torch.ones(2))


@pytest.mark.parametrize("missing", ["run", "version", "spaces", "algorithm", "ledger", "progress"])
@pytest.mark.parametrize("damage", ["gone", "wrong"])
def test_a_checkpoint_with_a_key_missing_or_wrong_is_named_with_what_to_do(tmp_path: Path, missing: str, damage: str):
    make_saved_run().save(StateFolder(tmp_path))
    state = StateFolder(tmp_path).load()
    assert state is not None
    state.pop(missing) if damage == "gone" else state.update({missing: "nonsense"})
    StateFolder(tmp_path).save(state)
    with pytest.raises(ProgramError, match=r"checkpoint\.pt holds no run .* move it away") as refusal:
        SavedRun.load(StateFolder(tmp_path))
    assert refusal.value.exit_code == ExitCode.STATE_UNUSABLE


@pytest.mark.parametrize("content", [[1, 2], {}, torch.zeros(3)], ids=["list", "empty", "tensor"])
def test_a_checkpoint_of_something_else_is_named(tmp_path: Path, content: Any):
    StateFolder(tmp_path).save(content)
    with pytest.raises(ProgramError, match="holds no run"):
        SavedRun.load(StateFolder(tmp_path))


def test_a_disk_that_refuses_a_checkpoint_or_a_version_is_named_until_it_takes_them(tmp_path: Path):
    state = StateFolder(tmp_path)
    (tmp_path / "checkpoint.draft").symlink_to("/dev/full")
    (tmp_path / ".versions.draft").mkdir()
    with pytest.raises(ProgramError, match=r"checkpoint\.pt.*make room") as refusal:
        state.save({"weights": torch.from_numpy(np.random.default_rng(0).random(100_000))})
    assert refusal.value.exit_code == ExitCode.STATE_UNUSABLE
    versions = VersionCounter(state, above=0)
    with pytest.raises(ProgramError, match=r"versions: Is a directory.*make room"):
        versions.next()
    assert (state.refusals, state.trouble.count("cannot write")) == (2, 2)
    (tmp_path / ".versions.draft").rmdir()
    assert versions.next() == 1
    state.save({})
    assert (state.refusals, state.trouble) == (2, "")


def test_only_the_runtimes_of_boards_that_are_there_and_act_count():
    book = BoardBook("r", None)
    birth = Birth(board_id="b", boot_id="x", session_id="s", software="1", runtime="tflite-runtime 2.14.0", run_id="r")
    book.take_status(msgspec.structs.replace(birth, problem=Problem(code=8, sentence="no such environment")))
    assert not book.has_runtime("tflite-runtime")
    book.take_status(birth)
    assert book.has_runtime("tflite-runtime")
    assert not book.has_runtime("ai-edge-litert")
    book.take_status(Death(board_id="b", boot_id="x", session_id="s", reason="lost"))
    assert not book.has_runtime("tflite-runtime")
