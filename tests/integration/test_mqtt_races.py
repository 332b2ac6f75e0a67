"""What the MQTT client does when threads, slow brokers and broken connections meet at bad moments."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from edgerl.broker import RunningBroker, free_port, start_broker
from edgerl.broker_command import BrokerKind
from fleet_protocol import mqtt, mqtt_session
from fleet_protocol.address import BrokerAddress
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.mqtt_probe import NoAnswer, probe_protocol

PUBLISH = 3
CONNACK = b"\x20\x03\x00\x00\x00"  # version 5: success, no properties
DYING = """
import sys, time
from fleet_protocol.address import BrokerAddress
from fleet_protocol.mqtt import MqttConnection, Will
connection = MqttConnection(
    BrokerAddress.parse(sys.argv[1]),
    client_id="dying",
    subscriptions=[],
    make_will=lambda session: Will("will", session.encode()),
    on_connect=lambda session: print(session, flush=True),
)
connection.start()
time.sleep(60)
"""


@contextmanager
def peer(serve: Callable[[socket.socket], None]) -> Iterator[BrokerAddress]:
    """Something that listens where a broker should, and serves each connection in a thread."""
    server = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def serve_one(connection: socket.socket) -> None:
        with suppress(OSError):  # the client is gone, or the test is over
            serve(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connections.append(server.accept()[0])
                threading.Thread(target=serve_one, args=(connections[-1],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield BrokerAddress("127.0.0.1", server.getsockname()[1])
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)
        for connection in connections:
            connection.close()


def packets(connection: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Type and rest of each packet of less than 128 bytes, until the connection ends."""
    with connection.makefile("rb") as stream:
        while head := stream.read(2):
            yield head[0] >> 4, stream.read(head[1])


def packet_id(publish: bytes) -> bytes:
    at = 2 + int.from_bytes(publish[:2], "big")
    return publish[at : at + 2]


def test_flush_is_not_disturbed_by_threads_that_publish():
    def serve(connection: socket.socket) -> None:
        connection.sendall(CONNACK)
        while connection.recv(65_536):
            pass

    interval = sys.getswitchinterval()
    ended = threading.Event()
    with peer(serve) as address, MqttConnection(address, client_id="x", subscriptions=[]) as connection:
        connection.wait_connected(10)

        def publish() -> None:
            while not ended.is_set():
                connection.publish("a", b"")

        publishing = threading.Thread(target=publish, daemon=True)
        for _ in range(1000):
            connection.publish("a", b"")
        sys.setswitchinterval(1e-6)
        try:
            publishing.start()
            assert not any(connection.flush(0.0) for _ in range(30))
        finally:
            sys.setswitchinterval(interval)
            ended.set()
            publishing.join(10)


def test_a_broker_that_acks_slowly_but_steadily_is_not_left(monkeypatch: pytest.MonkeyPatch):
    def serve(connection: socket.socket) -> None:
        connection.sendall(CONNACK)
        for kind, body in packets(connection):
            if kind == PUBLISH:
                time.sleep(0.1)
                connection.sendall(b"\x40\x02" + packet_id(body))

    monkeypatch.setattr(mqtt_session, "_PUBACK_OVERDUE_S", 1.0)
    monkeypatch.setattr(mqtt, "_WATCH_PERIOD_S", 0.05)
    with peer(serve) as address, MqttConnection(address, client_id="x", subscriptions=[]) as connection:
        connection.wait_connected(10)
        for _ in range(25):  # the last one is acked after two and a half seconds
            assert connection.publish("a", b"")
        assert connection.flush(20)
        assert connection.connects == 1


def test_what_a_broken_connection_left_unacked_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
):
    got: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        connection.sendall(CONNACK)
        got.extend(body for kind, body in packets(connection) if kind == PUBLISH)

    monkeypatch.setattr(mqtt_session, "_PUBACK_OVERDUE_S", 0.3)
    monkeypatch.setattr(mqtt, "_WATCH_PERIOD_S", 0.05)
    with peer(serve) as address, MqttConnection(address, client_id="x", subscriptions=[]) as connection:
        connection.wait_connected(10)
        for number in range(40):  # more than may be under way at once
            assert connection.publish("a", b"old %d" % number)
        wait_until(lambda: connection.connects == 2, timeout_s=20, what="a second connection")
        wait_until(lambda: connection.publish("a", b"new"), what="a message on it")
        wait_until(lambda: connection.connects >= 3, timeout_s=20, what="a third connection")
    assert len([body for body in got if b"old" in body]) == 20  # the first window, once
    assert any(b"new" in body for body in got)


def test_nothing_is_published_before_its_answer_could_be_heard(
    mosquitto: RunningBroker, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
):
    subscribe = MqttConnection._subscribe

    def subscribe_slowly(connection: MqttConnection, client: object) -> None:
        time.sleep(0.2)
        subscribe(connection, client)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(MqttConnection, "_subscribe", subscribe_slowly)
    got: list[bytes] = []
    subscriptions = [Subscription("a", 1, lambda _topic, payload: got.append(payload))]
    with MqttConnection(mosquitto.address, client_id="x", subscriptions=subscriptions) as connection:
        connection.wait_connected(10)
        assert connection.publish("a", b"at once")
        wait_until(lambda: got, timeout_s=5, what="its own message")


def test_a_client_that_is_thrown_out_again_and_again_says_why_that_may_be(
    mosquitto: RunningBroker, caplog: pytest.LogCaptureFixture, wait_until: Callable[..., None]
):
    """Mosquitto 2.0.11 closes the first connection of two clients of one name, and tells no reason."""
    with (
        MqttConnection(mosquitto.address, client_id="twin", subscriptions=[]),
        MqttConnection(mosquitto.address, client_id="twin", subscriptions=[]),
    ):
        wait_until(lambda: "is another client using this name" in caplog.text, timeout_s=60, what="the warning")


def test_a_broker_that_restarts_once_is_no_reason_to_suspect_another_client(
    caplog: pytest.LogCaptureFixture, wait_until: Callable[..., None]
):
    address = BrokerAddress("127.0.0.1", free_port())
    with MqttConnection(address, client_id="x", subscriptions=[]) as connection:
        for times in (1, 2):
            with start_broker(address.port):
                wait_until(lambda times=times: connection.connects == times, timeout_s=30, what="a connection")
            wait_until(lambda: not connection.is_connected, what="its end")
    assert "another client" not in caplog.text


def test_a_peer_that_closes_instead_of_answering_is_no_broker_at_once():
    def serve(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.shutdown(socket.SHUT_RDWR)

    started = time.monotonic()
    with peer(serve) as address, pytest.raises(NoAnswer, match="not spoken"):
        probe_protocol(address, client_id="p", give_up=threading.Event())
    assert time.monotonic() - started < 3  # of the five seconds that silence takes


def test_it_closes_promptly_while_a_connection_hangs():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = BrokerAddress("127.0.0.1", server.getsockname()[1])
        waiting = [socket.socket() for _ in range(4)]  # more than a full queue holds: the next SYN is dropped
        try:
            for client in waiting:
                client.setblocking(False)
                with suppress(BlockingIOError):
                    client.connect((address.host, address.port))
            connection = MqttConnection(address, client_id="x", subscriptions=[]).start()
            time.sleep(0.1)
            started = time.monotonic()
            connection.close()
            assert time.monotonic() - started < 3.5
        finally:
            for client in waiting:
                client.close()


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_it_comes_back_with_its_subscriptions_after_its_broker_was_killed(
    kind: BrokerKind, wait_until: Callable[..., None]
):
    got: list[bytes] = []
    port = free_port()
    subscriptions = [Subscription("a", 1, lambda _topic, payload: got.append(payload))]
    with MqttConnection(BrokerAddress("127.0.0.1", port), client_id="x", subscriptions=subscriptions) as connection:
        with start_broker(port, kind=kind) as broker:
            wait_until(lambda: connection.is_connected, timeout_s=30, what="the first connection")
            broker.process.kill()
            wait_until(lambda: not connection.is_connected, what="the end of the connection")
            assert not connection.publish("a", b"while away")
        with start_broker(port, kind=kind):
            wait_until(lambda: connection.is_connected, timeout_s=60, what="the second connection")
            assert connection.publish("a", b"again")
            wait_until(lambda: got, what="a message after the restart")
            connection.close()
    assert got == [b"again"]


def test_a_killed_program_leaves_the_will_of_its_session_on_an_embedded_broker_too(
    amqtt_broker: RunningBroker, wait_until: Callable[..., None]
):
    got: list[bytes] = []
    subscriptions = [Subscription("will", 1, lambda _topic, payload: got.append(payload))]
    with MqttConnection(amqtt_broker.address, client_id="ear", subscriptions=subscriptions) as ear:
        ear.wait_connected(10)
        command = [sys.executable, "-c", DYING, str(amqtt_broker.address)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dying:
            assert dying.stdout is not None
            session = dying.stdout.readline().strip()
            dying.kill()
        wait_until(lambda: got, what="the will")
    assert got == [session.encode()]
