"""Which MQTT a broker speaks, found out before the first real connection."""

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
    """
    found: queue.SimpleQueue[MQTTProtocolVersion] = queue.SimpleQueue()

    def answered(_client: paho.Client, _userdata: object, _flags: object, code: ReasonCode, _p: object) -> None:
        unsupported = code.getName() == _UNSUPPORTED_PROTOCOL
        found.put(MQTTProtocolVersion.MQTTv311 if unsupported else MQTTProtocolVersion.MQTTv5)

    probe = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=MQTTProtocolVersion.MQTTv5,
        reconnect_on_failure=False,
    )
    probe.on_connect = answered
    try:
        probe.connect(address.host, address.port)
    except OSError as error:
        raise NoAnswer(str(error)) from error
    probe.loop_start()
    try:
        for _ in range(round(_WAIT_S / _POLL_S)):
            with suppress(queue.Empty):
                return found.get(timeout=_POLL_S)
            if give_up.is_set():
                break
        raise NoAnswer("the connection was accepted, but MQTT was not spoken")
    finally:
        end_client(probe)


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
