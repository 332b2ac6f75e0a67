"""`edgerl demo` does the main job with real processes: it learns, reports, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

EDGERL = [sys.executable, "-c", "from edgerl.cli import main; main()"]


def run_demo(report: Path, *flags: str, timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*EDGERL, "demo", "--report", str(report), *flags],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def assert_totals_add_up(windows: dict[str, Any]) -> None:
    produced = windows["learned"] + sum(windows["dropped"].values()) + windows["in_outbox"] + windows["lost_window"]
    assert windows["produced"] == produced
    received = windows["learned"] + windows["refused"] + windows["duplicates"] + windows["queued"]
    assert windows["received"] == received


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_two_boards_learn_cartpole_with_int8_policies(kind: str, tmp_path: Path, request: pytest.FixtureRequest):
    if kind == "mosquitto":
        request.getfixturevalue("mosquitto")  # skips, or fails in CI, where it is missing
    said = run_demo(tmp_path / "report.json", "--broker-kind", kind, "--seed", "1")
    assert said.returncode == 0, said.stdout + said.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["reached"]
    assert report["return_mean_100"] >= 475
    assert report["recipe"] == "int8-dynamic"
    assert report["broker"]["kind"] == kind
    assert report["evaluation"]["episodes"] == 100
    assert report["evaluation"]["return_mean"] >= 400
    assert report["trajectories"]["bytes_per_step"] <= 18
    assert set(report["boards"]) == {"board-000", "board-001"}
    assert all(board["env_steps"] > 0 for board in report["boards"].values())
    assert all(0 < board["pss_mb"] <= 160 for board in report["boards"].values())
    assert_totals_add_up(report["trajectories"])


def test_a_target_that_is_not_reached_is_told_by_the_exit_code_and_reported_all_the_same(tmp_path: Path):
    flags = ("--env", "Acrobot-v1", "--target-return", "1000", "--time-limit", "2", "--boards", "1")
    said = run_demo(tmp_path / "report.json", *flags)
    assert said.returncode == 7, said.stdout + said.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert not report["reached"]
    assert report["time_to_target_s"] is None
    assert report["learner_updates"] > 0
    assert_totals_add_up(report["trajectories"])


def test_a_continuous_task_runs_through_the_same_loop(tmp_path: Path):
    flags = ("--env", "Pendulum-v1", "--target-return", "0", "--time-limit", "3", "--boards", "1")
    said = run_demo(tmp_path / "report.json", *flags)
    assert said.returncode == 7, said.stdout + said.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["learner_updates"] > 10
    assert report["trajectories"]["dropped"]["invalid"] == 0
    assert report["evaluation"]["episodes"] == 100
    assert_totals_add_up(report["trajectories"])


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--env", "Nope-v1"), 8, "unknown"),
        (("--env", "json:Nope-v1"), 9, "allowed_environments"),
        (("--env", "Blackjack-v1"), 10, "Tuple"),
    ],
)
def test_a_task_that_boards_cannot_do_ends_with_one_line_and_its_code(
    flags: tuple[str, ...], code: int, words: str, tmp_path: Path
):
    said = run_demo(tmp_path / "report.json", *flags)
    assert said.returncode == code
    assert words in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1
    assert "Traceback" not in said.stdout + said.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_within_3_s_and_leaves_no_process_behind(number: int, tmp_path: Path, wait_until):
    report = tmp_path / "report.json"
    marker = f"EDGERL_TEST_MARK={tmp_path}"
    process = subprocess.Popen(
        [*EDGERL, "demo", "--report", str(report), "--target-return", "100000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"EDGERL_TEST_MARK": str(tmp_path)},
    )
    try:
        wait_until(lambda: workers_marked(marker) == 2, timeout_s=60, what="the whole demo")
        process.send_signal(number)
        assert process.wait(timeout=3) == 130
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not processes_marked(marker), timeout_s=2, what="the end of all processes")
    assert report.exists()


@pytest.mark.parametrize("delay_s", [0.3, 0.6, 0.9])
def test_ctrl_c_while_it_is_still_starting_ends_it_as_well(delay_s: float, tmp_path: Path, wait_until):
    marker = f"EDGERL_TEST_MARK={tmp_path}"
    process = subprocess.Popen(
        [*EDGERL, "demo", "--report", str(tmp_path / "report.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"EDGERL_TEST_MARK": str(tmp_path)},
    )
    try:
        wait_until(lambda: len(processes_marked(marker)) >= 3, timeout_s=60, what="the first processes")
        time.sleep(delay_s)  # a moment within the start, whichever it is
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=5)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, said.decode()
    assert b"Traceback" not in said
    wait_until(lambda: not processes_marked(marker), timeout_s=2, what="the end of all processes")


def workers_marked(marker: str) -> int:
    """How many of the marked processes play environments."""
    lines = [Path(f"/proc/{number}/cmdline") for number in processes_marked(marker)]
    return sum(b"edge_actor.worker" in line.read_bytes() for line in lines if line.exists())


def processes_marked(marker: str) -> list[int]:
    """Living processes with this variable: a child of the demo inherits it, whatever session it is in."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue  # it ended meanwhile, or is not ours to read
    return found
