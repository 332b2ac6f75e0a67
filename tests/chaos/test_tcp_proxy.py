"""The bad line is as bad as it says, and never worse: tests of the tool that the scenarios rest on."""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from tcp_proxy import Line, TcpProxy

from fleet_protocol.address import BrokerAddress

pytestmark = pytest.mark.everyday


@pytest.fixture
def echo() -> Iterator[BrokerAddress]:
    """A server that says back what it hears."""
    server = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with suppress(OSError):
            while data := connection.recv(65_536):
                connection.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connections.append(server.accept()[0])
                threading.Thread(target=serve, args=(connections[-1],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield BrokerAddress("127.0.0.1", server.getsockname()[1])
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)
    for connection in connections:
        connection.close()


def connect(address: BrokerAddress) -> socket.socket:
    return socket.create_connection((address.host, address.port), timeout=30)


def receive(client: socket.socket, size: int) -> bytes:
    """As many bytes, or all that came before the end or a reset."""
    received = b""
    with suppress(ConnectionResetError):
        while len(received) < size and (data := client.recv(65_536)):
            received += data
    return received


def said_back(client: socket.socket, data: bytes) -> bytes:
    sending = threading.Thread(target=lambda: client.sendall(data), daemon=True)
    sending.start()
    received = receive(client, len(data))
    sending.join(10)
    return received


@pytest.mark.parametrize(
    "line",
    [
        Line(),
        Line(latency_s=0.05, jitter_s=0.05),
        Line(slice_bytes=100),
        Line(slice_bytes=1000, latency_s=0.02, jitter_s=0.02, bytes_per_s=1e6),
    ],
    ids=["a good line", "jitter", "slices", "all together"],
)
def test_no_line_loses_or_changes_a_byte(line: Line, echo: BrokerAddress):
    data = os.urandom(200_000)
    with TcpProxy(echo, line=line) as proxy, connect(proxy.address) as client:
        assert hashlib.sha256(said_back(client, data)).digest() == hashlib.sha256(data).digest()


def test_latency_is_what_a_byte_takes_each_way(echo: BrokerAddress):
    with TcpProxy(echo, line=Line(latency_s=0.2, jitter_s=0.1)) as proxy, connect(proxy.address) as client:
        for _ in range(5):
            started = time.monotonic()
            assert said_back(client, b"x") == b"x"
            assert time.monotonic() - started >= 0.2  # two ways of at least 0.1 s


def test_a_slow_line_holds_many_messages_under_way(echo: BrokerAddress):
    with TcpProxy(echo, line=Line(latency_s=0.2)) as proxy, connect(proxy.address) as client:
        started = time.monotonic()
        for _ in range(50):
            client.sendall(b"x")
            time.sleep(0.001)  # apart, so that each is a piece of its own
        assert receive(client, 50) == b"x" * 50
        assert time.monotonic() - started < 50 * 0.2  # not one after the other


def test_bandwidth_is_a_bound(echo: BrokerAddress):
    with TcpProxy(echo, line=Line(bytes_per_s=200_000)) as proxy, connect(proxy.address) as client:
        started = time.monotonic()
        assert len(said_back(client, bytes(100_000))) == 100_000
        assert time.monotonic() - started >= 0.5


def test_a_connection_is_reset_after_so_many_bytes_and_the_next_begins_anew(echo: BrokerAddress):
    with TcpProxy(echo, line=Line(limit_bytes=15_000, slice_bytes=1000)) as proxy:
        for times in (1, 2):
            with connect(proxy.address) as client:
                with suppress(OSError):
                    client.sendall(bytes(10_000))
                assert len(receive(client, 10_000)) < 10_000  # 15,000 of both directions
            assert proxy.resets == times


def test_a_silent_connection_stays_open_and_new_ones_work(echo: BrokerAddress):
    with TcpProxy(echo) as proxy, connect(proxy.address) as old:
        assert said_back(old, b"hello") == b"hello"
        proxy.go_silent()
        old.sendall(b"anybody there?")
        old.settimeout(0.3)
        with pytest.raises(TimeoutError):
            old.recv(1)
        with connect(proxy.address) as new:
            assert said_back(new, b"hello") == b"hello"


def test_down_refuses_and_resets_and_up_is_at_the_same_address(echo: BrokerAddress):
    with TcpProxy(echo) as proxy, connect(proxy.address) as client:
        assert said_back(client, b"hello") == b"hello"
        before = proxy.address
        proxy.down()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        with pytest.raises(ConnectionRefusedError):
            connect(proxy.address)
        proxy.up()
        assert proxy.address == before
        with connect(proxy.address) as again:
            assert said_back(again, b"hello") == b"hello"
        assert proxy.accepted == 2


def test_reset_resets_every_connection_and_lets_new_ones_in(echo: BrokerAddress, wait_until: Callable[..., None]):
    with TcpProxy(echo) as proxy, connect(proxy.address) as one, connect(proxy.address) as other:
        for client in (one, other):
            assert said_back(client, b"hello") == b"hello"
        proxy.reset()
        for client in (one, other):
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        with connect(proxy.address) as again:
            assert said_back(again, b"hello") == b"hello"


def test_a_server_that_is_not_there_ends_the_connection():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        with TcpProxy(BrokerAddress("127.0.0.1", nobody.getsockname()[1])) as proxy, connect(proxy.address) as client:
            assert receive(client, 1) == b""
