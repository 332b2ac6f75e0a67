"""The MQTT client; with `mqtt_session.py` and `mqtt_probe.py` the only files that know paho.

Each connection is a new, clean session with a fresh paho client: a new session id goes into its last will, nothing of
an old session is sent again behind our back, and all subscriptions are made anew. What must survive a connection is
retained on the broker or stands in an outbox. Handlers run on the network thread and only hand over.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from fleet_protocol.address import BrokerAddress
from fleet_protocol.backoff import Backoff
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.mqtt_probe import NoAnswer, connect_client, end_client, new_client, probe_protocol
from fleet_protocol.mqtt_session import MqttSession
from fleet_protocol.tls import TlsRefused

_log = logging.getLogger(__name__)

Handler = Callable[[str, bytes], None]
"""Takes topic and payload, on the network thread: hand over and return."""

_KEEPALIVE_S: Final = 30
_INFLIGHT: Final = 20
"""Mosquitto announces 20; paho never reads the announcement."""
_CONNECT_WAIT_S: Final = 10.0
_WATCH_PERIOD_S: Final = 0.5
_CLIENT_ID_TAKEN: Final = "Session taken over"
_MANY_EXPULSIONS: Final = 3
"""Mosquitto 2.0 does not say why it ends a connection; a restart does so once, a second client again and again."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic filter, its QoS, and who takes what comes."""

    topic_filter: str
    qos: int
    handler: Handler


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says when a connection breaks: retained, QoS 1."""

    topic: str
    payload: bytes


class MqttConnection:
    """Keeps one session with the broker alive until closed.

    Args:
        address: The broker.
        client_id: Stable name; a second live client of that name throws the first one out.
        subscriptions: Made on every connect.
        make_will: Takes the new session's id, and returns its last will.
        on_connect: Called with the session's id after each connect, on the network thread.
    """

    def __init__(
        self,
        address: BrokerAddress,
        *,
        client_id: str,
        subscriptions: list[Subscription],
        make_will: Callable[[str], Will] | None = None,
        on_connect: Callable[[str], None] | None = None,
    ) -> None:
        self._address = address
        self._client_id = client_id
        self._subscriptions = subscriptions
        self._make_will = make_will
        self._on_connect = on_connect
        self._protocol: MQTTProtocolVersion | None = None
        self._session: MqttSession | None = None
        self._connected = threading.Event()
        self._ended = threading.Event()
        self._closing = threading.Event()
        self._failure: Exception | None = None
        self.connects = 0
        self.last_problem = ""
        self._is_refused = False
        self._thread = threading.Thread(target=self._keep_connected, name="mqtt", daemon=True)

    def start(self) -> Self:
        """Begin to connect, in a thread of its own."""
        self._thread.start()
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_connected(self) -> bool:
        """True between CONNACK and the end of the connection."""
        return self._connected.is_set()

    def wait_connected(self, timeout_s: float) -> None:
        """Wait for the first connection.

        Raises:
            ProgramError: There was none in time.
        """
        if not self._connected.wait(timeout_s):
            if self._is_refused:
                raise ProgramError(ExitCode.CERTIFICATE_REFUSED, f"broker {self._address}: {self.last_problem}")
            raise ProgramError(
                ExitCode.NO_BROKER,
                f"no MQTT broker at {self._address} ({self.last_problem or 'no answer'}); start one with "
                f"`edgerl broker run --port {self._address.port}`, or check --broker",
            )

    def raise_failure(self) -> None:
        """Raise what a handler raised on the network thread: a programming error must crash the program."""
        if self._failure is not None:
            raise self._failure

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Hand a message to the network; False when there is no connection, and then nothing is queued."""
        session = self._session
        if session is None or not self.is_connected:
            return False
        return session.publish(topic, payload, qos=qos, retain=retain)

    def resubscribe(self) -> None:
        """Subscribe anew, so that the broker sends what it retains once more."""
        session = self._session
        if session is not None and self.is_connected:
            self._subscribe(session.client)

    def replace(self, topic_filter: str, subscription: Subscription) -> None:
        """Subscribe to something else in place of a filter, now and on every connect."""
        others = [known for known in self._subscriptions if known.topic_filter != topic_filter]
        self._subscriptions = [*others, subscription]
        session = self._session
        if session is not None and self.is_connected:
            session.client.unsubscribe(topic_filter)
            session.client.message_callback_remove(topic_filter)
            self._subscribe(session.client)

    def flush(self, timeout_s: float) -> bool:
        """Wait until the broker has acked what was published on this connection; False if it has not in time."""
        session = self._session
        unacked = session.unacked() if session else []
        deadline = time.monotonic() + timeout_s
        while (unacked := [info for info in unacked if not info.is_published()]) and time.monotonic() < deadline:
            if self._session is not session:
                break
            time.sleep(0.002)
        return not unacked

    def close(self) -> None:
        """Disconnect cleanly (no will is sent) and end the thread."""
        self._closing.set()
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    # --- the thread that keeps the connection -----------------------------------------------------------------------

    def _keep_connected(self) -> None:
        backoff, expulsions = Backoff(), 0
        while not self._closing.is_set():
            started, connects = time.monotonic(), self.connects
            self._guard(self._one_session)
            if self._closing.is_set():
                return
            has_lasted = time.monotonic() - started > _CONNECT_WAIT_S
            expulsions = 0 if has_lasted or self.connects == connects else expulsions + 1
            if expulsions == _MANY_EXPULSIONS:
                _log.warning(
                    "broker %s accepts %s and soon ends the connection, %d times now; is another client using this "
                    "name? Or does an access list forbid what it publishes?",
                    *(self._address, self._client_id, expulsions),
                )
            self._closing.wait(backoff.next_wait_s(has_lasted=has_lasted))

    def _one_session(self) -> None:
        self._ended.clear()
        if self._closing.is_set():
            return
        session_id = uuid.uuid4().hex[:12]
        try:
            self._protocol = self._protocol or probe_protocol(
                self._address, client_id=f"{self._client_id}-probe", give_up=self._closing
            )
            if self._closing.is_set():
                return
            client = self._make_client(session_id, self._protocol)
            connect_client(client, self._address, keepalive_s=_KEEPALIVE_S)
        except (NoAnswer, TlsRefused) as error:
            self._note_problem(error)
            return
        self._session = MqttSession(client)
        client.loop_start()
        try:
            self._watch(self._session)
        finally:
            self._session = None
            end_client(client)
            self._connected.clear()  # only now: a late CONNACK may have set it until the network thread ended

    def _watch(self, session: MqttSession) -> None:
        connect_deadline = time.monotonic() + _CONNECT_WAIT_S
        while not self._ended.wait(_WATCH_PERIOD_S):
            if not self.is_connected and time.monotonic() > connect_deadline:
                self._protocol = None  # a 3.1.1 broker that took this one's place hangs at a version 5 will
                self._note_problem("the connection was accepted, but MQTT was not spoken")
                return
            if session.has_stalled():
                self._note_problem("the broker stopped acknowledging")
                return

    def _make_client(self, session_id: str, protocol: MQTTProtocolVersion) -> paho.Client:
        client = new_client(self._client_id, protocol)
        client.max_inflight_messages_set(_INFLIGHT)
        if self._make_will is not None:
            will = self._make_will(session_id)
            client.will_set(will.topic, will.payload, qos=1, retain=True)
        client.on_connect = lambda c, _u, _f, code, _p: self._guard(self._connect_answered, c, code, session_id)
        client.on_disconnect = lambda _c, _u, _f, code, _p: self._guard(self._disconnected, code)
        client.on_subscribe = lambda _c, _u, _m, codes, _p: self._guard(self._subscribed, codes)
        client.on_publish = lambda _c, _u, _m, code, _p: self._guard(self._published, code)
        return client

    # --- on paho's network thread -----------------------------------------------------------------------------------

    def _guarded_handler(self, handler: Handler) -> Callable[[paho.Client, Any, paho.MQTTMessage], None]:
        return lambda _client, _userdata, message: self._guard(handler, message.topic, message.payload)

    def _guard(self, function: Callable[..., None], *arguments: object) -> None:
        # An exception here would end paho's thread while is_connected() goes on saying True.
        try:
            function(*arguments)
        except Exception as error:  # noqa: BLE001 - raise_failure() raises it again
            _log.exception("a handler failed")
            self._failure = self._failure or error

    def _connect_answered(self, client: paho.Client, code: ReasonCode, session_id: str) -> None:
        if code.is_failure:
            self._protocol = None  # another broker may have taken this one's place
            self._note_problem(f"the broker refused: {code.getName()}")
            self._ended.set()
            return
        self.connects += 1
        self.last_problem = ""
        self._subscribe(client)  # first, so that nothing is published before its answer could be heard
        self._connected.set()
        if self._on_connect is not None:
            self._on_connect(session_id)

    def _disconnected(self, code: ReasonCode) -> None:
        if self._address.tls and not self.is_connected:
            self._protocol = None  # a certificate may have been refused, which only a probe can tell
        self._connected.clear()
        if not self._closing.is_set() and code.is_failure:
            self._note_problem(code.getName())
        self._ended.set()

    def _subscribed(self, codes: list[ReasonCode]) -> None:
        answers = zip(self._subscriptions, codes, strict=False)
        refused = [f"{s.topic_filter} ({code.getName()})" for s, code in answers if code.is_failure]
        if refused:
            self._note_problem(f"the broker lets {self._client_id} not hear {', '.join(refused)}")
            self._ended.set()  # a connection that hears nothing looks well, and is worth nothing

    def _published(self, code: ReasonCode) -> None:
        if code.is_failure:  # only MQTT 5 tells
            self._note_problem(f"the broker does not let {self._client_id} publish ({code.getName()})")

    def _subscribe(self, client: paho.Client) -> None:
        subscriptions = self._subscriptions
        for subscription in subscriptions:
            client.message_callback_add(subscription.topic_filter, self._guarded_handler(subscription.handler))
        if subscriptions:
            client.subscribe([(s.topic_filter, s.qos) for s in subscriptions])

    def _note_problem(self, what: str | ConnectionError) -> None:
        problem, self._is_refused = str(what), isinstance(what, TlsRefused)
        if problem == self.last_problem or self._closing.is_set():
            return
        self.last_problem = problem
        hint = "; is another client using this name?" if problem == _CLIENT_ID_TAKEN else "; trying again"
        _log.warning("broker %s: %s%s", self._address, problem, hint)
