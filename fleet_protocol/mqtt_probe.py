"""Which MQTT a broker speaks, found out before the first real connection."""

import queue
from typing import Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from fleet_protocol.address import BrokerAddress

_WAIT_S: Final = 5.0
_UNSUPPORTED_PROTOCOL: Final = "Unsupported protocol version"


class NoAnswer(ConnectionError):
    """The broker could not be asked; says why."""


def probe_protocol(address: BrokerAddress, *, client_id: str) -> MQTTProtocolVersion:
    """Version 5 where the broker has it, else 3.1.1.

    The probe carries no will: a 3.1.1 broker takes a will's version 5 properties for something else, and hangs.

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
        return found.get(timeout=_WAIT_S)
    except queue.Empty as error:
        raise NoAnswer("the connection was accepted, but MQTT was not spoken") from error
    finally:
        probe.disconnect()
        probe.loop_stop()
