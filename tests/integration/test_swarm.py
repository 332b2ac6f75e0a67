"""A learner serves many boards at once: every one is acked, and the totals add up."""

from collections.abc import Callable
from pathlib import Path

from fleet_processes import learner, read_report
from running_swarm import RunningSwarm

from edgerl.broker import RunningBroker

BOARDS = 30


def test_thirty_boards_are_all_served_and_their_totals_add_up(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
):
    with RunningSwarm(tmp_path, mosquitto.address, fleet_name, BOARDS, "--period-s", "0.3") as swarm:
        with learner(tmp_path, mosquitto.address, fleet_name, "--batch-windows", "8") as learning:
            wait_until(lambda: swarm.now("acked_min") >= 5, timeout_s=120, what="five acks for every board")
        assert "Traceback" not in learning.said()
    report = read_report(tmp_path)
    assert set(report["boards"]) == {f"swarm-{n:04d}" for n in range(BOARDS)}
    assert report["trajectories"]["add_up"], report["trajectories"]
    assert report["trajectories"]["learned"] >= 5 * BOARDS
