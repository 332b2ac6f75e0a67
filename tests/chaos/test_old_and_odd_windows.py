"""F24 and F16: windows that lag too far or make no sense are counted, not learned; a board that was away catches up."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from accounts import Accounts
from fleet_processes import board, learner, read_report
from swarm_board import recorded_window
from tcp_proxy import TcpProxy

from cloud_learner.checkpoints import StateFolder
from cloud_learner.saved_run import SavedRun
from edgerl.broker import RunningBroker
from fleet_protocol.codec import encode
from fleet_protocol.messages import TrajectoryMessage
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.sequences import SequenceSet
from fleet_protocol.topics import FleetTopics

WaitUntil = Callable[..., None]
RUN_STEPS = 8
RUN = (
    *("--max-age-s", "3600", "--max-policy-lag", "20"),
    # A clock: boards go on producing while nobody hears them.
    *("--control-hz", "100", "--unroll-length", str(RUN_STEPS)),
)


def without(name: str, window: bytes) -> bytes:
    """A window that lacks one of its fields."""
    fields: dict[str, Any] = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(window))
    del fields[name]
    return zstandard.ZstdCompressor().compress(msgspec.msgpack.encode(fields))


@pytest.mark.everyday
def test_F24_windows_beyond_the_lag_of_unknown_versions_or_without_logits_are_counted_and_not_learned(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: WaitUntil
):
    topics = FleetTopics(fleet_name)
    odd_windows = {
        "a version that was never published": recorded_window(8, 1, 10**9, 0),
        "no logits": without("behavior_params", recorded_window(8, 1, 1, 0)),
        "no versions": without("version_runs", recorded_window(8, 1, 1, 0)),
        "another T": recorded_window(7, 1, 1, 0),
    }
    with (
        TcpProxy(mosquitto.address) as proxy,
        Accounts(mosquitto.address, fleet_name) as accounts,
        MqttConnection(mosquitto.address, client_id="odd", subscriptions=[]) as odd,
        board(tmp_path, mosquitto.address, fleet_name, "b1"),
        board(tmp_path, proxy.address, fleet_name, "b2"),
        learner(tmp_path, mosquitto.address, fleet_name, *RUN) as learning,
    ):
        wait_until(
            lambda: len(accounts.acked) == 2 and accounts.count_acked() > 20, timeout_s=90, what="acks for both boards"
        )
        proxy.down()
        version = accounts.versions[-1]
        wait_until(lambda: accounts.versions[-1] > version + 40, timeout_s=120, what="forty versions without b2")
        acked = accounts.count_acked_of("b2")
        proxy.up()
        wait_until(lambda: accounts.count_acked_of("b2") > acked + 5, timeout_s=90, what="new acks for b2")
        run_id = accounts.run_id()
        for seq, window in enumerate(odd_windows.values()):
            message = TrajectoryMessage(
                run_id=run_id, board_id="odd", boot_id="odd", seq=seq, oldest_seq=0, body=window
            )
            assert odd.publish(topics.up("odd", "trajectory"), encode(message))
        wait_until(lambda: accounts.count_acked_of("odd") == len(odd_windows), timeout_s=30, what="acks of the odd")
        learning.process.terminate()
        assert learning.process.wait(60) == 130, learning.said()
    assert "Traceback" not in learning.said()
    report, saved = read_report(tmp_path), SavedRun.load(StateFolder(tmp_path / "state"))
    assert saved is not None
    windows = report["trajectories"]
    assert windows["add_up"], windows
    assert windows["dropped"]["stale"] >= 1, windows
    assert windows["dropped"]["invalid"] == len(odd_windows), windows
    assert report["ignored"]["refused_stale"] == windows["dropped"]["stale"]
    assert report["env_steps"] == windows["learned"] * RUN_STEPS
    (of_the_odd,) = [boot for boot in saved.ledger.state()["boots"] if boot["board_id"] == "odd"]
    assert not of_the_odd["learned"]
    # A window that begins under the policy from before the cut and ends under the current one is current: few are.
    assert report["policy_lag"]["p95"] <= 20


def test_F16_a_board_that_was_away_for_fifty_versions_jumps_to_the_current_one(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: WaitUntil
):
    flags = ("--spill-after-s", "1", "--keep-policy-every-s", "0")
    with (
        TcpProxy(mosquitto.address) as proxy,
        Accounts(mosquitto.address, fleet_name) as accounts,
        learner(tmp_path, mosquitto.address, fleet_name, *RUN) as learning,
        board(tmp_path, mosquitto.address, fleet_name, "b1"),
    ):
        with board(tmp_path, proxy.address, fleet_name, "b2", *flags):
            wait_until(lambda: accounts.count_acked_of("b2") > 10, timeout_s=90, what="acks for b2")
            wait_until((tmp_path / "boards/b2/policy.frame").exists, timeout_s=30, what="a policy that is kept")
            proxy.down()
            wait_until((tmp_path / "boards/b2/outbox.db").exists, timeout_s=30, what="windows on its disk")
        ((_, old_boot),) = [boot for boot in accounts.acked if boot[0] == "b2"]
        version = accounts.versions[-1]
        wait_until(lambda: accounts.versions[-1] >= version + 50, timeout_s=180, what="fifty versions without b2")
        current = accounts.versions[-1]
        proxy.up()
        with board(tmp_path, proxy.address, fleet_name, "b2", *flags):
            wait_until(lambda: accounts.acting_version_of("b2") >= current, timeout_s=60, what="the current version")
            wait_until(
                lambda: accounts.counter("recovered_acked") == accounts.counter("outbox_recovered") > 0,
                timeout_s=60,
                what="the learner's word on what it brought along",
            )
            wait_until(
                lambda: any(boot[0] == "b2" and boot[1] != old_boot for boot in accounts.acked),
                timeout_s=60,
                what="acks for what it does now",
            )
            learning.process.terminate()
            assert learning.process.wait(60) == 130, learning.said()
    report = read_report(tmp_path)
    windows = report["trajectories"]
    assert windows["add_up"], windows
    assert windows["lost_window"] == 0
    assert windows["dropped"]["stale"] >= 1  # it came back with windows of its old version
    assert report["env_steps"] == windows["learned"] * RUN_STEPS
    saved = SavedRun.load(StateFolder(tmp_path / "state"))
    assert saved is not None
    (old,) = [boot for boot in saved.ledger.state()["boots"] if boot["boot_id"] == old_boot]
    assert len(SequenceSet(map(tuple, old["refused"]["stale"]))) >= 1


def test_F24_a_window_that_is_refused_while_boards_come_to_rest_is_in_the_last_checkpoint(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: WaitUntil
):
    topics = FleetTopics(fleet_name)

    def send_odd_window(_topic: str, _command: bytes) -> None:
        window = recorded_window(8, 1, 10**9, 0)
        message = TrajectoryMessage(
            run_id=accounts.run_id(), board_id="odd", boot_id="odd", seq=0, oldest_seq=0, body=window
        )
        assert odd.publish(topics.up("odd", "trajectory"), encode(message))

    commands = Subscription(topics.down("b1", "command"), 1, send_odd_window)
    with (
        Accounts(mosquitto.address, fleet_name) as accounts,
        MqttConnection(mosquitto.address, client_id="odd", subscriptions=[commands]) as odd,
        board(tmp_path, mosquitto.address, fleet_name, "b1") as acting,
        learner(tmp_path, mosquitto.address, fleet_name, *RUN) as learning,
    ):
        odd.wait_connected(10)
        wait_until(lambda: accounts.count_acked() > 20, timeout_s=90, what="acks")
        acting.process.send_signal(signal.SIGSTOP)  # it will not answer `pause`, and the learner will wait for it
        try:
            learning.process.terminate()
            assert learning.process.wait(60) == 130, learning.said()
        finally:
            acting.process.send_signal(signal.SIGCONT)
        assert accounts.count_acked_of("odd") == 1
    saved = SavedRun.load(StateFolder(tmp_path / "state"))
    assert saved is not None
    assert saved.ledger.admit(("odd", "odd"), 0, oldest_seq=0) == "finished"
