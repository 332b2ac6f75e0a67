"""F21: lines that are slow, jittery, sliced, cut or silent: no deadlock, exact totals, a floor of throughput.

Loss, corruption and reordering below TCP are not made here: TCP turns them into the latency and the resets that are.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from accounts import PATIENT
from fleet_on_a_line import FleetOnALine
from tcp_proxy import Line

from edgerl.broker import RunningBroker

WaitUntil = Callable[..., None]
WAITING = (*PATIENT, "--max-in-flight", "8", "--unroll-length", "16", "--copies", "4")
"""Boards that wait for the learner: 8 windows at most are under way from each."""
FLOOR_PER_S = 1.0
"""Windows a second and board over 500 +- 200 ms, which each window and each ack cross twice: 8 in some 2 s at best."""


@pytest.fixture
def fleet(tmp_path: Path, mosquitto: RunningBroker, fleet_name: str, wait_until: WaitUntil) -> FleetOnALine:
    return FleetOnALine(tmp_path, mosquitto, fleet_name, wait_until, run=WAITING)


@pytest.mark.thorough
def test_F21_over_half_a_second_each_way_windows_flow_above_the_floor(fleet: FleetOnALine, wait_until: WaitUntil):
    measured_s = 20.0
    with fleet:
        fleet.begin(2)
        fleet.proxy.line = Line(latency_s=0.5, jitter_s=0.2)
        fleet.recover()
        before, started = fleet.accounts.count_acked(), time.monotonic()
        needed = before + 2 * FLOOR_PER_S * measured_s
        wait_until(lambda: fleet.accounts.count_acked() >= needed, timeout_s=120, what="forty windows")
        took_s = time.monotonic() - started
        assert took_s <= measured_s, f"expected 40 windows in {measured_s} s, got them in {took_s:.1f} s"
        fleet.proxy.line = Line()
        windows = fleet.close()
    assert windows["lost_window"] == 0
    assert not any(windows["dropped"].values())


def test_F21_connections_that_are_reset_and_sliced_cost_nothing(fleet: FleetOnALine):
    with fleet:
        fleet.begin(2)
        fleet.proxy.line = Line(slice_bytes=100)
        for _ in range(3):
            fleet.proxy.reset()
            fleet.recover()
        windows = fleet.close()
    assert windows["lost_window"] == 0
    assert not any(windows["dropped"].values())


def test_F21_connections_that_are_cut_in_the_middle_of_a_message_cost_nothing(
    fleet: FleetOnALine, wait_until: WaitUntil
):
    with fleet:
        fleet.begin(2)
        fleet.proxy.line = Line(limit_bytes=150_001)
        wait_until(lambda: fleet.proxy.resets >= 6, timeout_s=180, what="six cuts")
        fleet.proxy.line = Line()
        fleet.recover()
        windows = fleet.close()
    assert windows["lost_window"] == 0
    assert not any(windows["dropped"].values())


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_F21_connections_that_go_silent_are_given_up_and_made_anew(fleet: FleetOnALine, wait_until: WaitUntil):
    with fleet:
        fleet.begin(2)
        accepted = fleet.proxy.accepted
        fleet.proxy.go_silent()  # as behind a NAT that has forgotten them: open, and nothing comes back
        wait_until(lambda: fleet.proxy.accepted >= accepted + 3, timeout_s=180, what="three new connections")
        fleet.recover()
        windows = fleet.close()
    assert windows["lost_window"] == 0
    assert not any(windows["dropped"].values())
