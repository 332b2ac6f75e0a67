"""F20: windows and acks come twice, late, out of order, and from a copied card; each window is learned once (D2)."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from accounts import CLOCKED, Accounts
from fault_proxy import FaultProxy
from fleet_processes import board, learner, read_report
from tcp_proxy import TcpProxy

from cloud_learner.checkpoints import StateFolder
from cloud_learner.saved_run import SavedRun
from edgerl.broker import RunningBroker
from fleet_protocol.sequences import SequenceSet

WaitUntil = Callable[..., None]


def is_delivery(topic: str) -> bool:
    return topic.endswith(("/up/trajectory", "/down/ack"))


@pytest.mark.everyday
def test_F20_windows_and_acks_that_are_lost_doubled_redelivered_and_late_are_learned_once(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: WaitUntil
):
    is_good = threading.Event()
    faults = {"loss": 0.1, "duplicates": 0.15, "redeliveries": 0.15, "delay": 0.15, "delay_s": 0.5}
    with (
        FaultProxy(
            mosquitto.address, concerns=lambda topic: is_delivery(topic) and not is_good.is_set(), seed=4, **faults
        ) as proxy,
        Accounts(mosquitto.address, fleet_name) as accounts,
        board(tmp_path, proxy.address, fleet_name, "b1"),
        board(tmp_path, proxy.address, fleet_name, "b2"),
    ):
        with learner(tmp_path, mosquitto.address, fleet_name, *CLOCKED) as learning:
            wait_until(
                lambda: (
                    min(proxy.tally.lost, proxy.tally.duplicated, proxy.tally.redelivered, proxy.tally.delayed) > 30
                ),
                timeout_s=120,
                what="faults of each kind",
            )
            is_good.set()  # no ack is lost any more: all that is learned is told, at the latest when it is sent again
            proxy.cut()  # which is at once on a new connection, and may be half a minute later on the old one
            wait_until(
                lambda: accounts.counter("reconnects") >= 2, timeout_s=120, what="both boards on new connections"
            )
            wait_until(lambda: not accounts.has_holes(), timeout_s=120, what="what was lost")
        assert "Traceback" not in learning.said()
        windows = accounts.close(tmp_path, wait_until, *CLOCKED)["trajectories"]
    assert windows["duplicates"] > 30
    assert windows["lost_window"] == 0


def test_F20_two_boards_with_one_card_are_named_and_what_both_send_is_learned_once(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: WaitUntil
):
    copy = tmp_path / "copy"
    with (
        TcpProxy(mosquitto.address) as proxy,
        Accounts(mosquitto.address, fleet_name) as accounts,
        learner(tmp_path, mosquitto.address, fleet_name, *CLOCKED) as learning,
    ):
        with board(tmp_path, proxy.address, fleet_name, "twin", "--spill-after-s", "1"):
            wait_until(lambda: accounts.count_acked() > 20, timeout_s=90, what="the first acks")
            proxy.down()
            wait_until((tmp_path / "boards/twin/outbox.db").exists, timeout_s=30, what="windows on the card")
        ((board_id, old_boot),) = accounts.acked  # it has ended, and all that was not acked is on its card
        copy.mkdir()
        shutil.copytree(tmp_path / "boards", copy / "boards")
        proxy.up()
        with (
            board(tmp_path, proxy.address, fleet_name, "twin") as one,
            board(copy, proxy.address, fleet_name, "twin") as other,
        ):
            wait_until(
                lambda: "two live agents call themselves twin" in learning.said(), timeout_s=120, what="the sentence"
            )
            wait_until(lambda: "another live agent" in one.said() + other.said(), timeout_s=120, what="their own")
            wait_until(
                lambda: len(accounts.acked) == 3 and not accounts.has_holes(), timeout_s=120, what="acks for all boots"
            )
        learning.process.terminate()
        learning.process.wait(60)
    assert "Traceback" not in learning.said() + one.said() + other.said()
    report, saved = read_report(tmp_path), SavedRun.load(StateFolder(tmp_path / "state"))
    assert saved is not None
    marks = {boot["boot_id"]: SequenceSet(map(tuple, boot["learned"])) for boot in saved.ledger.state()["boots"]}
    assert marks[old_boot].ranges() == accounts.acked[board_id, old_boot].ranges()
    assert report["env_steps"] == report["trajectories"]["learned"] * saved.run.unroll_length
    assert report["trajectories"]["learned"] == sum(map(len, marks.values()))
