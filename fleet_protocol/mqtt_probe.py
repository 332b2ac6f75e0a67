"""How a paho client begins and ends, and which MQTT a broker speaks, found out before the first real connection."""

import queue
import socket
import threading
import time
from contextlib import suppress
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from fleet_protocol.address import BrokerAddress
from fleet_protocol.exit_codes import ProgramError
from fleet_protocol.tls import TlsRefused, explain_tls, find_refusal

_CONNECT_TIMEOUT_S: Final = 2.5
"""Time for a lost SYN to be sent again; close() may have to wait as long."""
_WAIT_S: Final = 5.0
_POLL_S: Final = 0.1
_DISCONNECT_WAIT_S: Final = 1.0
_UNSUPPORTED_PROTOCOL: Final = "Unsupported protocol version"


class NoAnswer(ConnectionError):
    """The broker could not be asked; says why."""


def probe_protocol(address: BrokerAddress, *, client_id: str, give_up: threading.Event) -> MQTTProtocolVersion:
    """Version 5 where the broker has it, else 3.1.1.

    The probe carries no will: a 3.1.1 broker takes a will's version 5 properties for something else, and hangs.

    Args:
        address: The broker.
        client_id: Name of the probe.
        give_up: Ends the wait for an answer when it is set.

    Raises:
        NoAnswer: No connection, or nothing that speaks MQTT at its other end.
        TlsRefused: One side refused the other's certificate.
    """
    found: queue.SimpleQueue[MQTTProtocolVersion | None] = queue.SimpleQueue()

    def answered(_client: paho.Client, _userdata: object, _flags: object, code: ReasonCode, _p: object) -> None:
        unsupported = code.getName() == _UNSUPPORTED_PROTOCOL
        found.put(MQTTProtocolVersion.MQTTv311 if unsupported else MQTTProtocolVersion.MQTTv5)

    def closed(*_: object) -> None:
        found.put(None)

    probe = new_client(client_id, MQTTProtocolVersion.MQTTv5)
    probe.on_connect = answered
    probe.on_disconnect = closed
    connect_client(probe, address)
    probe.loop_start()
    try:
        protocol = _first_of(found, give_up)
    finally:
        end_client(probe)
    if protocol is None:
        raise _silence(address)
    return protocol


def _silence(address: BrokerAddress) -> ConnectionError:
    """Why a connection came to nothing."""
    if address.tls is None:
        return NoAnswer("the connection was accepted, but MQTT was not spoken (does it demand TLS?)")
    refusal = find_refusal(address.tls, host=address.host, port=address.port, timeout_s=_CONNECT_TIMEOUT_S)
    return TlsRefused(refusal) if refusal else NoAnswer("TLS was spoken, but MQTT was not")


def _first_of(
    found: "queue.SimpleQueue[MQTTProtocolVersion | None]", give_up: threading.Event
) -> MQTTProtocolVersion | None:
    for _ in range(round(_WAIT_S / _POLL_S)):
        with suppress(queue.Empty):
            return found.get(timeout=_POLL_S)
        if give_up.is_set():
            break
    return None


def new_client(client_id: str, protocol: MQTTProtocolVersion) -> paho.Client:
    """Make a client for one clean session, which never reconnects by itself."""
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=protocol,
        clean_session=None if protocol == MQTTProtocolVersion.MQTTv5 else True,
        reconnect_on_failure=False,
    )
    client.connect_timeout = _CONNECT_TIMEOUT_S
    client.on_socket_open = _send_without_delay
    return client


def connect_client(client: paho.Client, address: BrokerAddress, *, keepalive_s: int = 60) -> None:
    """Open a client's connection, over TLS where the address has files for it.

    Raises:
        NoAnswer: There is nobody, or a file for TLS cannot be used just now.
        TlsRefused: The broker is not the one it should be, or speaks no TLS.
    """
    try:
        if address.tls is not None:
            client.tls_set_context(address.tls.context())  # pyright: ignore[reportUnknownMemberType]
        client.connect(address.host, address.port, keepalive=keepalive_s)
    except ProgramError as error:  # it was usable at the start, and is being replaced
        raise NoAnswer(str(error)) from error
    except OSError as error:
        refusal = explain_tls(error, host=address.host)
        raise (TlsRefused(refusal) if refusal else NoAnswer(str(error))) from error


def _send_without_delay(_client: paho.Client, _userdata: object, connection: Any) -> None:  # noqa: ANN401 - a paho socket
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def end_client(client: paho.Client) -> None:
    """Disconnect, and end paho's network thread: by force where the other end does not read any more."""
    client.disconnect()
    deadline = time.monotonic() + _DISCONNECT_WAIT_S
    connection: Any = client.socket()
    while connection is not None and time.monotonic() < deadline:
        time.sleep(0.001)
        connection = client.socket()
    if connection is not None:  # loop_stop() would wait until all is sent, or the keepalive is over
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    # paho's thread sets itself to None at its end, which may lie between the two looks that loop_stop() takes at it.
    with suppress(AttributeError):
        client.loop_stop()
