"""What is retained is the fleet's memory, and brokers forget: it is said again, and asked for again (T6, T7)."""

from collections.abc import Callable
from pathlib import Path

from fleet_processes import board, learner

from edgerl.broker import RunningBroker, free_port, start_broker
from fleet_protocol.address import BrokerAddress
from fleet_protocol.codec import decode, encode
from fleet_protocol.messages import Birth, LearnerReport, RunSpec, Status, Telemetry
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.signing import seal_frame
from fleet_protocol.topics import FleetTopics


class Listener:
    """Hears everything of a fleet, from its first connection on."""

    def __init__(self, address: BrokerAddress, fleet: str) -> None:
        self.heard: dict[str, list[bytes]] = {}
        everything = Subscription(f"edgerl/1/{fleet}/#", 1, self._hear)
        self.connection = MqttConnection(address, client_id="listener", subscriptions=[everything])

    def _hear(self, topic: str, payload: bytes) -> None:
        self.heard.setdefault(topic, []).append(payload)


def test_a_broker_that_has_forgotten_everything_is_told_again(
    fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
):
    address, topics = BrokerAddress("127.0.0.1", free_port()), FleetTopics(fleet_name)
    owned = {topics.run, topics.policy("all"), topics.learner, topics.status("b1")}
    with start_broker(address.port) as broker:
        learning = learner(tmp_path, address, fleet_name)
        acting = board(tmp_path, address, fleet_name, "b1")
        with learning, acting:
            first = Listener(address, fleet_name)
            with first.connection:
                wait_until(lambda: owned <= set(first.heard), timeout_s=60, what="all that is retained")
            broker.process.kill()  # it keeps nothing on disk
            broker.process.wait()
            with start_broker(address.port):
                second = Listener(address, fleet_name)
                with second.connection:
                    wait_until(lambda: owned <= set(second.heard), timeout_s=60, what="all of it once more")
                    alive = [decode(status, Status) for status in second.heard[topics.status("b1")]]
                    assert isinstance(alive[-1], Birth)
    assert "Traceback" not in learning.said() + acting.said()


def test_a_board_that_has_missed_what_the_heartbeat_names_asks_again(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
):
    topics, listener = FleetTopics(fleet_name), Listener(mosquitto.address, fleet_name)
    run = RunSpec(run_id="r", generation=1, env_id="CartPole-v1", unroll_length=8)
    report = LearnerReport(
        run_id="r",
        generation=1,
        env_id=run.env_id,
        state="learning",
        versions={"all": 7},  # which no board can have received: it was never published
        heartbeat_s=0.1,
        env_steps=0,
        learner_updates=0,
        episodes=0,
    )
    frame = seal_frame(encode(run), kind="run", version=run.generation, run_id=run.run_id)

    def resubscribed() -> int:
        reports = listener.heard.get(topics.up("b1", "telemetry"))
        return decode(reports[-1], Telemetry).counters.get("resubscribed", 0) if reports else 0

    with listener.connection as learning, board(tmp_path, mosquitto.address, fleet_name, "b1") as acting:
        learning.wait_connected(10)
        assert learning.publish(topics.run, frame, retain=True)
        wait_until(lambda: topics.up("b1", "telemetry") in listener.heard, timeout_s=30, what="the board")
        assert learning.publish(topics.learner, encode(report))
        assert learning.flush(10)
        for asked in (1, 2):

            def beats_twice(asked: int = asked) -> bool:
                learning.publish(topics.learner, encode(report))
                return resubscribed() >= asked

            wait_until(beats_twice, timeout_s=30, what="a new subscription")
    assert "Traceback" not in acting.said()
