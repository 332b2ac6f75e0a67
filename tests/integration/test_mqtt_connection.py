"""The MQTT client against real brokers: it comes back by itself, tells the truth, and no handler can kill it."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from edgerl.broker import RunningBroker, free_port, start_broker
from fleet_protocol import backoff, mqtt
from fleet_protocol.address import BrokerAddress
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.mqtt import MqttConnection, Subscription, Will
from fleet_protocol.mqtt_probe import NoAnswer, probe_protocol

Got = list[tuple[str, bytes]]


@contextmanager
def connected(address: BrokerAddress, name: str, topic: str = "", got: Got | None = None) -> Iterator[MqttConnection]:
    into: Got = [] if got is None else got
    subscriptions = [Subscription(topic, 1, lambda topic, payload: into.append((topic, payload)))] if topic else []
    with MqttConnection(address, client_id=name, subscriptions=subscriptions) as connection:
        connection.wait_connected(10)
        yield connection


def test_what_is_published_is_heard(any_broker: RunningBroker, wait_until: Callable[..., None]):
    got: Got = []
    with connected(any_broker.address, "ear", "a/+", got), connected(any_broker.address, "mouth") as mouth:
        for qos in (0, 1):
            wait_until(lambda qos=qos: mouth.publish("a/b", b"\x00\xff", qos=qos) and len(got) > qos, what="a message")
    assert set(got) == {("a/b", b"\x00\xff")}


def test_version_5_is_found_on_mosquitto_and_3_1_1_on_amqtt(mosquitto: RunningBroker, amqtt_broker: RunningBroker):
    assert probe_protocol(mosquitto.address, client_id="p", give_up=threading.Event()).name == "MQTTv5"
    assert probe_protocol(amqtt_broker.address, client_id="p", give_up=threading.Event()).name == "MQTTv311"


def test_nothing_at_the_other_end_is_no_answer(free_address: BrokerAddress):
    with pytest.raises(NoAnswer):
        probe_protocol(free_address, client_id="p", give_up=threading.Event())


@pytest.fixture
def free_address() -> BrokerAddress:
    return BrokerAddress("127.0.0.1", free_port())


def test_without_a_broker_it_says_how_to_start_one(free_address: BrokerAddress):
    with MqttConnection(free_address, client_id="x", subscriptions=[]) as connection:
        with pytest.raises(ProgramError, match="edgerl broker run") as refused:
            connection.wait_connected(0.5)
        assert refused.value.exit_code == ExitCode.NO_BROKER
        assert not connection.publish("a", b"")


def test_it_comes_back_to_a_restarted_broker_with_its_subscriptions_and_a_new_session(wait_until: Callable[..., None]):
    port, got, sessions = free_port(), [], []
    address = BrokerAddress("127.0.0.1", port)
    subscriptions = [Subscription("a", 1, lambda topic, payload: got.append((topic, payload)))]
    with MqttConnection(address, client_id="x", subscriptions=subscriptions, on_connect=sessions.append) as connection:
        with start_broker(port):
            wait_until(lambda: connection.is_connected, what="the first connection")
        wait_until(lambda: not connection.is_connected, what="the end of the connection")
        assert not connection.publish("a", b"while away")
        with start_broker(port):
            wait_until(lambda: connection.is_connected, timeout_s=30, what="the second connection")
            wait_until(lambda: connection.publish("a", b"again") and got, what="a message after the restart")
            connection.close()
    assert {payload for _, payload in got} == {b"again"}  # nothing of the old session was sent behind our back
    assert len(set(sessions)) == 2


def test_a_killed_program_leaves_the_will_of_its_session(mosquitto: RunningBroker, wait_until: Callable[..., None]):
    program = (
        "import sys, time\n"
        "from fleet_protocol.address import BrokerAddress\n"
        "from fleet_protocol.mqtt import MqttConnection, Will\n"
        "c = MqttConnection(BrokerAddress.parse(sys.argv[1]), client_id='dying', subscriptions=[],\n"
        "    make_will=lambda s: Will('will', s.encode()), on_connect=lambda s: print(s, flush=True))\n"
        "c.start(); time.sleep(60)\n"
    )
    got: Got = []
    with connected(mosquitto.address, "ear", "will", got):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(mosquitto.address)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        session = process.stdout.readline().strip()
        process.kill()
        process.wait()
        process.stdout.close()
        wait_until(lambda: got, what="the will")
    assert got == [("will", session.encode())]


def test_a_clean_goodbye_leaves_no_will(mosquitto: RunningBroker, wait_until: Callable[..., None]):
    got: Got = []
    with connected(mosquitto.address, "ear", "#", got), connected(mosquitto.address, "mouth") as mouth:
        with MqttConnection(
            mosquitto.address, client_id="polite", subscriptions=[], make_will=lambda _: Will("will", b"lost")
        ) as polite:
            polite.wait_connected(10)
        wait_until(lambda: mouth.publish("after", b"") and got, what="a later message")
    assert {topic for topic, _ in got} == {"after"}


def test_a_handler_that_raises_is_raised_where_it_belongs_and_stops_nothing(
    mosquitto: RunningBroker, wait_until: Callable[..., None]
):
    got: list[bytes] = []

    def handler(_topic: str, payload: bytes) -> None:
        got.append(payload)
        if payload == b"bad":
            raise KeyError("a mistake of ours")

    subscriptions = [Subscription("a", 1, handler)]
    with MqttConnection(mosquitto.address, client_id="x", subscriptions=subscriptions) as connection:
        connection.wait_connected(10)
        connection.raise_failure()
        for payload in (b"bad", b"good"):
            wait_until(lambda payload=payload: connection.publish("a", payload) and payload in got, what="a message")
        with pytest.raises(KeyError, match="a mistake of ours"):
            connection.raise_failure()
        assert connection.is_connected


def test_many_threads_publish_at_once_and_every_message_is_acked(
    mosquitto: RunningBroker, wait_until: Callable[..., None]
):
    """Paho holds a lock in its callbacks that publish() takes too: a lock of ours in both would be a deadlock."""
    got: Got = []
    with connected(mosquitto.address, "ear", "a", got), connected(mosquitto.address, "mouth") as mouth:
        threads = [
            threading.Thread(target=lambda: [mouth.publish("a", b"x" * 200) for _ in range(500)], daemon=True)
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert mouth.flush(30)
        wait_until(lambda: len(got) == 2000, what="all messages")


def test_a_broker_that_stops_acknowledging_is_left_and_tried_again(monkeypatch: pytest.MonkeyPatch, wait_until):
    monkeypatch.setattr(mqtt, "_PUBACK_OVERDUE_S", 0.3)
    monkeypatch.setattr(mqtt, "_WATCH_PERIOD_S", 0.05)
    with silent_broker() as address, MqttConnection(address, client_id="x", subscriptions=[]) as connection:
        connection.wait_connected(10)
        assert connection.publish("a", b"never acked")
        wait_until(lambda: connection.connects >= 2, timeout_s=20, what="a second connection")


def test_a_broker_that_stops_reading_is_left_without_waiting_for_its_keepalive(
    monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
):
    monkeypatch.setattr(mqtt, "_PUBACK_OVERDUE_S", 0.3)
    with silent_broker() as address, MqttConnection(address, client_id="x", subscriptions=[]) as connection:
        connection.wait_connected(10)
        for _ in range(10):
            connection.publish("a", bytes(4_000_000))  # more than fits between two sockets
        wait_until(lambda: connection.connects >= 2, timeout_s=15, what="a second connection")


def test_an_ack_is_waited_for_although_earlier_messages_of_its_number_needed_none():
    with silent_broker() as address, MqttConnection(address, client_id="x", subscriptions=[]) as connection:
        connection.wait_connected(10)
        for _ in range(65_535):  # message ids come round again after so many
            connection.publish("a", b"", qos=0)
        assert connection.publish("a", b"")
        assert not connection.flush(0.3)


def test_a_message_whose_connection_breaks_is_not_called_acked(wait_until: Callable[..., None]):
    flushed: list[bool] = []
    with silent_broker() as address, MqttConnection(address, client_id="x", subscriptions=[]) as connection:
        connection.wait_connected(10)
        assert connection.publish("a", b"never acked")
        flush = threading.Thread(target=lambda: flushed.append(connection.flush(30)), daemon=True)
        flush.start()
        connection.close()
        wait_until(lambda: flushed, what="the end of flush()")
    assert flushed == [False]


@contextmanager
def silent_broker(answer: bytes = b"\x20\x03\x00\x00\x00") -> Iterator[BrokerAddress]:
    """Gives one answer, by default to CONNECT that all is well (version 5, no properties), and never reads again."""
    server = socket.create_server(("127.0.0.1", 0))
    clients: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
                clients.append(client)
                client.recv(1000)
                client.sendall(answer)
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield BrokerAddress("127.0.0.1", server.getsockname()[1])
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)
        for client in clients:
            client.close()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x7f", bytes(1000)], ids=repr)
def test_what_does_not_speak_mqtt_is_no_broker_and_holds_nobody_up(answer: bytes):
    with silent_broker(answer) as address:
        connection = MqttConnection(address, client_id="x", subscriptions=[]).start()
        with pytest.raises(ProgramError) as refused:
            connection.wait_connected(0.5)
        started = time.monotonic()
        connection.close()
        assert time.monotonic() - started < 2
    assert refused.value.exit_code == ExitCode.NO_BROKER
    connection.raise_failure()


def test_a_will_does_not_keep_it_from_a_3_1_1_broker_that_took_the_place_of_another(
    mosquitto: RunningBroker, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
):
    """A version 5 will makes amqtt hang instead of answer, so what was found out before must be forgotten."""
    monkeypatch.setattr(mqtt, "_CONNECT_WAIT_S", 1.0)
    monkeypatch.setattr(backoff, "_LIMIT_S", 0.2)
    with MqttConnection(
        mosquitto.address, client_id="x", subscriptions=[], make_will=lambda session: Will("will", session.encode())
    ) as connection:
        connection.wait_connected(10)
        mosquitto.process.kill()
        mosquitto.process.wait()
        with start_broker(mosquitto.address.port, kind="amqtt"):
            wait_until(lambda: connection.connects == 2, timeout_s=30, what="a connection to the other broker")
            connection.close()


def test_it_still_tries_after_a_thousand_failures(
    free_address: BrokerAddress, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
):
    tries = []

    def counting(address: BrokerAddress, **others: Any) -> Any:
        tries.append(1)
        return probe_protocol(address, **others)

    monkeypatch.setattr(mqtt, "probe_protocol", counting)
    monkeypatch.setattr(backoff, "_LIMIT_S", 0.0)
    with MqttConnection(free_address, client_id="x", subscriptions=[]) as connection:
        wait_until(lambda: len(tries) > 1100, timeout_s=60, what="the 1100th try")  # 2.0**1024 is no float
        monkeypatch.setattr(backoff, "_LIMIT_S", 0.1)
        with start_broker(free_address.port):
            wait_until(lambda: connection.is_connected, what="a connection")
            connection.close()


def test_a_mistake_in_making_the_will_is_raised_where_it_belongs(
    mosquitto: RunningBroker, wait_until: Callable[..., None]
):
    def make_will(_session: str) -> Will:
        raise KeyError("a mistake of ours")

    def has_failed() -> bool:
        try:
            connection.raise_failure()
        except KeyError:
            return True
        return False

    with MqttConnection(mosquitto.address, client_id="x", subscriptions=[], make_will=make_will) as connection:
        wait_until(has_failed, what="the failure")


def test_resubscribing_brings_what_is_retained_once_more(mosquitto: RunningBroker, wait_until: Callable[..., None]):
    got: Got = []
    with connected(mosquitto.address, "mouth") as mouth:
        assert mouth.publish("a", b"kept", retain=True)
        assert mouth.flush(10)
        mouth.resubscribe()  # to nothing, which is no error
    with connected(mosquitto.address, "ear", "a", got) as ear:
        wait_until(lambda: len(got) == 1, what="the retained message")
        ear.resubscribe()
        wait_until(lambda: len(got) == 2, what="the retained message again")
        ear.raise_failure()


def test_handlers_may_publish_while_other_threads_do(mosquitto: RunningBroker, wait_until: Callable[..., None]):
    got: Got = []
    subscriptions = [Subscription("question", 1, lambda _topic, payload: answer(payload))]

    def answer(payload: bytes) -> None:
        both.publish("answer", payload)

    with (
        connected(mosquitto.address, "ear", "answer", got),
        MqttConnection(mosquitto.address, client_id="both", subscriptions=subscriptions) as both,
    ):
        both.wait_connected(10)
        wait_until(lambda: both.publish("question", b"first") and got, what="the first answer")
        wait_until(lambda: both.flush(0.1), what="silence")
        threads = [
            threading.Thread(target=lambda: [both.publish("question", b"more") for _ in range(250)], daemon=True)
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        wait_until(lambda: sum(payload == b"more" for _, payload in got) == 1000, timeout_s=30, what="all answers")


@pytest.mark.parametrize("with_broker", [True, False])
def test_it_closes_promptly_connected_or_not(with_broker: bool, free_address: BrokerAddress, mosquitto: RunningBroker):
    address = mosquitto.address if with_broker else free_address
    connection = MqttConnection(address, client_id="x", subscriptions=[]).start()
    if with_broker:
        connection.wait_connected(10)
    started = time.monotonic()
    connection.close()
    assert not connection.is_connected
    assert time.monotonic() - started < 5  # the limit of close()'s own join: it ended before that
