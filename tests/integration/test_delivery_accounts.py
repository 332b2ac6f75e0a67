"""Totals add up exactly (D4), whatever happens to messages behind their PUBACK."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fault_proxy import FaultProxy
from fleet_processes import board, learner, read_report

from edgerl.broker import RunningBroker
from fleet_monitor.collector import Collector
from fleet_protocol.mqtt import MqttConnection, Subscription


def is_delivery(topic: str) -> bool:
    return topic.endswith(("/up/trajectory", "/down/ack"))


def test_the_proxy_does_exactly_what_it_counts(
    any_broker: RunningBroker, fleet_name: str, wait_until: Callable[..., None]
):
    got: list[bytes] = []
    topic = f"{fleet_name}/up/trajectory"
    listening = Subscription(topic, 1, lambda _topic, payload: got.append(payload))
    with (
        FaultProxy(any_broker.address, concerns=is_delivery, loss=0.2, duplicates=0.2, delay=0.2, seed=3) as proxy,
        MqttConnection(any_broker.address, client_id="listener", subscriptions=[listening]) as listener,
        MqttConnection(proxy.address, client_id="speaker", subscriptions=[]) as speaker,
    ):
        listener.wait_connected(10)
        speaker.wait_connected(10)
        for number in range(300):
            assert speaker.publish(topic, str(number).encode())
        assert speaker.flush(20)  # nobody is wedged: every message has its PUBACK
        tally = proxy.tally
        arrived = tally.passed + 2 * tally.duplicated + tally.delayed
        wait_until(lambda: len(got) == arrived, what="all that was not lost")
        assert tally.passed + tally.lost + tally.duplicated + tally.delayed == 300
        assert min(tally.lost, tally.duplicated, tally.delayed) > 30
        assert len(set(got)) == 300 - tally.lost


@pytest.mark.parametrize("seed", [1, 2])
def test_totals_add_up_while_windows_and_acks_are_lost_doubled_and_delayed(
    seed: int, mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
):
    with (
        FaultProxy(
            mosquitto.address, concerns=is_delivery, loss=0.1, duplicates=0.1, delay=0.1, delay_s=0.3, seed=seed
        ) as proxy,
        Collector(mosquitto.address, fleet=fleet_name, history_path=None) as collector,
        board(tmp_path, proxy.address, fleet_name, "b1", "--seed", str(seed)),
        board(tmp_path, proxy.address, fleet_name, "b2", "--seed", str(seed + 10)),
        learner(tmp_path, mosquitto.address, fleet_name, "--time-limit-s", "12", "--max-in-flight", "8") as learning,
    ):
        # Of all windows and acks a tenth each is lost, doubled, and late.
        assert learning.process.wait(60) == 0, learning.said()
        assert min(proxy.tally.lost, proxy.tally.duplicated, proxy.tally.delayed) >= 5, proxy.tally
        assert not collector.snapshot().ignored
    report = read_report(tmp_path)
    windows = report["trajectories"]
    produced = windows["learned"] + sum(windows["dropped"].values()) + windows["in_outbox"] + windows["lost_window"]
    assert windows["produced"] == produced, windows
    received = windows["learned"] + windows["refused"] + windows["duplicates"] + windows["queued"]
    assert windows["received"] == received, windows
    assert windows["lost_window"] == 0
    assert windows["learned"] > 50
    assert windows["duplicates"] > 0
    # learned windows were learned once: their steps are the learner's steps
    assert report["env_steps"] == windows["learned"] * 32 * 16
