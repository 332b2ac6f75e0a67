"""F10 and F12: policies come at any moment and in any order, and every step names the one that acted (D6)."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fleet_processes import Program, board
from scripted_learner import HeardWindow, ScriptedLearner, logits_that_acted, logits_that_are_named

from edgerl.broker import RunningBroker
from fleet_monitor.collector import Collector

WaitUntil = Callable[..., None]
REMEMBERING = ("--keep-policy-every-s", "0")

pytestmark = pytest.mark.everyday


def require_truth(windows: list[HeardWindow]) -> None:
    """Every step names the policy that acted, none acted before it was published, and none after a newer one."""
    for boot_id, group in itertools.groupby(windows, key=lambda window: window.boot_id):
        versions: list[int] = []
        for window in group:
            trajectory = window.trajectory
            # Half a unit of the grid is float32's rounding; the next version is further away.
            assert trajectory.wire_scale < 0.125
            np.testing.assert_allclose(
                logits_that_acted(trajectory), logits_that_are_named(trajectory), atol=trajectory.wire_scale * 0.51
            )
            assert trajectory.policy_versions.max() <= window.published
            versions += trajectory.policy_versions.tolist()
        assert versions == sorted(versions), f"boot {boot_id} went back"


def test_F10_every_step_names_the_version_that_acted_through_twenty_swaps_within_episodes(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: WaitUntil
):
    with (
        ScriptedLearner(mosquitto.address, fleet_name) as learning,
        board(tmp_path, mosquitto.address, fleet_name, "b1") as acting,
    ):
        for version in range(1, 21):
            learning.publish(version)
            wait_until(
                lambda version=version: learning.newest_acting() == version, timeout_s=60, what=f"version {version}"
            )
        windows = learning.windows()
    assert "Traceback" not in acting.said()
    require_truth(windows)
    versions = np.concatenate([window.trajectory.policy_versions for window in windows])
    first_steps = np.concatenate([window.trajectory.is_first for window in windows])
    swaps = np.flatnonzero(np.diff(versions)) + 1
    assert set(versions) == set(range(1, 21))
    assert not first_steps[swaps].all(axis=1).any()  # none of them had to wait for the end of an episode
    assert any(len(set(window.trajectory.policy_versions)) > 1 for window in windows)  # nor of a window


def test_F12_quick_doubled_and_disordered_versions_leave_the_newest_acting_over_a_restart_too(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: WaitUntil
):
    def acting_board() -> Program:
        return board(tmp_path, mosquitto.address, fleet_name, "b1", *REMEMBERING)

    with (
        ScriptedLearner(mosquitto.address, fleet_name) as learning,
        Collector(mosquitto.address, fleet=fleet_name, history_path=None) as collector,
    ):

        def refused() -> int:
            told = [one.telemetry for one in collector.snapshot().boards if one.telemetry]
            return sum(telemetry.counters.get("policy_not_newer", 0) for telemetry in told)

        with acting_board() as acting:
            learning.publish(1)
            wait_until(lambda: learning.newest_acting() == 1, timeout_s=60, what="the first version")
            for version in (5, 9, 7, 9, 8, 12, 12, 3):
                learning.publish(version)
            wait_until(lambda: learning.newest_acting() == 12, timeout_s=60, what="the newest version")
            wait_until(lambda: refused() == 3, timeout_s=20, what="the refusals of 7, 8 and 3")
            kept = tmp_path / "boards/b1/policy.frame"
            wait_until(kept.exists, timeout_s=20, what="a policy that is kept")
        (first_boot,) = {window.boot_id for window in learning.windows()}
        with acting_board():  # the broker retains version 3
            wait_until(
                lambda: sum(window.boot_id != first_boot for window in learning.windows()) > 10,
                timeout_s=60,
                what="windows after the restart",
            )
        windows = learning.windows()
    assert "Traceback" not in acting.said()
    require_truth(windows)
    assert {v for w in windows if w.boot_id != first_boot for v in w.trajectory.policy_versions.tolist()} == {12}
