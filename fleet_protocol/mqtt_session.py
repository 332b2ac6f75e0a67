"""One connection with the broker: its client, and what was published on it and is not acked yet."""

import time
from collections import deque
from typing import Final

import paho.mqtt.client as paho

_PUBACK_OVERDUE_S: Final = 15.0
"""TCP loses nothing, so an ack this late means that something between has swallowed a packet: start again."""


class MqttSession:
    """Publishes, from any thread.

    Args:
        client: That of this connection.
    """

    def __init__(self, client: paho.Client) -> None:
        self.client = client
        self._unacked: deque[tuple[paho.MQTTMessageInfo, float]] = deque()
        self._last_ack = time.monotonic()  # or the start

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> bool:
        """Hand a message to the network; False when it did not take it."""
        info = self.client.publish(topic, payload, qos=qos, retain=retain)
        if info.rc == paho.MQTT_ERR_SUCCESS and qos > 0:
            self._unacked.append((info, time.monotonic()))
        return info.rc == paho.MQTT_ERR_SUCCESS

    def unacked(self) -> list[paho.MQTTMessageInfo]:
        """What may not be acked yet."""
        return [info for info, _ in list(self._unacked)]  # list() is atomic, a loop is not

    def has_stalled(self) -> bool:
        """The broker has stopped acknowledging; one thread asks, now and then."""
        now = time.monotonic()
        while self._unacked and self._unacked[0][0].is_published():
            self._unacked.popleft()
            self._last_ack = now
        # A long queue on a slow link is old at its end, and yet all is well while acks keep coming.
        return bool(self._unacked) and now - max(self._last_ack, self._unacked[0][1]) > _PUBACK_OVERDUE_S
