"""A learner serves many boards at once: every one is acked, and the totals add up."""

import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fleet_processes import learner, read_report

from edgerl.broker import RunningBroker

sys.path.append(str(Path(__file__).parents[1] / "swarm"))
from swarm import SwarmBoard, play

BOARDS = 30


def test_thirty_boards_are_all_served_and_their_totals_add_up(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
):
    boards = [SwarmBoard(f"swarm-{n:02d}", fleet_name, period_s=0.3) for n in range(BOARDS)]
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    playing = asyncio.run_coroutine_threadsafe(play(boards, mosquitto.address), loop)
    try:
        with learner(tmp_path, mosquitto.address, fleet_name, "--batch-windows", "8") as learning:
            wait_until(
                lambda: all(board.acked >= 5 for board in boards), timeout_s=60, what="five acks for every board"
            )
        assert "Traceback" not in learning.said()
    finally:
        playing.cancel()
        with suppress(BaseException):
            playing.result(10)
        wait_until(lambda: len(asyncio.all_tasks(loop)) == 0, what="the end of the swarm")
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()
    report = read_report(tmp_path)
    assert set(report["boards"]) == {board.board_id for board in boards}
    assert report["trajectories"]["add_up"], report["trajectories"]
    assert report["trajectories"]["learned"] >= 5 * BOARDS
