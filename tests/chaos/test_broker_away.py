"""F17: nobody reaches the broker for a while. Windows wait, each is learned once, and drops are counted (D4, D5).

Outages of an hour or a day are not run here: what grows with their length is the outbox, and its bounds are tested.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from fleet_on_a_line import FleetOnALine

from edgerl.broker import RunningBroker

WaitUntil = Callable[..., None]


@pytest.fixture
def outages(tmp_path: Path, mosquitto: RunningBroker, fleet_name: str, wait_until: WaitUntil) -> FleetOnALine:
    return FleetOnALine(tmp_path, mosquitto, fleet_name, wait_until)


@pytest.mark.everyday
def test_F17_a_broker_that_is_away_for_a_second_costs_nothing(outages: FleetOnALine):
    with outages:
        outages.begin(2)
        for _ in range(2):
            outages.lose_the_broker(1.0)
            outages.recover()
        windows = outages.close()
    assert windows["lost_window"] == 0
    assert not any(windows["dropped"].values())


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_F17_what_waits_for_a_broker_that_is_away_for_a_minute_is_on_disk_and_is_learned_once(
    outages: FleetOnALine,
):
    with outages:
        outages.begin(2, "--spill-after-s", "2")
        outages.lose_the_broker(60.0)
        outages.recover()
        assert outages.accounts.counter("windows_spilled") > 2 * 500  # 12.5 a second and board
        windows = outages.close()
    assert windows["lost_window"] == 0
    assert not any(windows["dropped"].values())


@pytest.mark.thorough
def test_F17_beyond_its_budget_a_board_drops_the_oldest_and_counts_each(outages: FleetOnALine, wait_until: WaitUntil):
    with outages:
        outages.begin(1, "--outbox-bytes", "20000")
        outages.lose_the_broker(15.0)
        wait_until(
            lambda: outages.accounts.boards()["dropped"] > 0, timeout_s=120, what="telemetry that tells of drops"
        )
        acked = outages.accounts.count_acked()
        wait_until(lambda: outages.accounts.count_acked() > acked + 100, timeout_s=120, what="new acks")
        windows = outages.close()
    assert windows["lost_window"] == 0
    assert windows["dropped"]["outbox_full"] > 0
    assert windows["dropped"]["stale"] == 0


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_F17_twenty_boards_and_a_broker_that_is_away_for_a_second_and_for_a_minute(outages: FleetOnALine):
    with outages:
        outages.begin(2, "--spill-after-s", "2", swarm=18)
        for outage_s in (1.0, 60.0):
            outages.lose_the_broker(outage_s)
            outages.recover()
        windows = outages.close()
    assert windows["lost_window"] == 0
    assert windows["produced"] == windows["learned"] + windows["in_outbox"] + sum(windows["dropped"].values())
