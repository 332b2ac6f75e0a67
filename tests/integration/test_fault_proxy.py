"""The proxy does to messages exactly what it counts, in both directions and versions, and wedges nobody."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import fault_proxy
import paho.mqtt.client as paho
import pytest
from fault_proxy import FaultProxy, Tally, TopicAliasUsed
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgerl.broker import RunningBroker, free_port, start_broker
from fleet_protocol.address import BrokerAddress
from fleet_protocol.mqtt import MqttConnection, Subscription

MESSAGES = 500
MIXTURES = [
    {"loss": 0.3},
    {"duplicates": 0.3},
    {"delay": 0.3, "delay_s": 0.05},
    {"loss": 0.2, "duplicates": 0.2, "delay": 0.2, "delay_s": 0.05},
    {"loss": 1.0},
    {},
]
TALLIES = {"loss": "lost", "duplicates": "duplicated", "delay": "delayed"}


def concerns(topic: str) -> bool:
    return topic.startswith("bad/")


@contextmanager
def connected(address: BrokerAddress, name: str, got: list[bytes] | None = None) -> Iterator[MqttConnection]:
    subscriptions = [] if got is None else [Subscription("#", 1, lambda _topic, payload: got.append(payload))]
    with MqttConnection(address, client_id=name, subscriptions=subscriptions) as connection:
        connection.wait_connected(10)
        yield connection


def exchange(speaker: MqttConnection, listener: MqttConnection, tally: Tally, got: list[bytes], wait_until) -> None:
    """Send all messages, and wait until all that may come has come: what follows them on their way says so."""
    wait_until(lambda: speaker.publish("good", b"first") and b"first" in got, what="the subscription")
    for number in range(MESSAGES):
        assert speaker.publish("bad/a", str(number).encode())
    assert speaker.flush(30)  # nobody is wedged: every message has its PUBACK
    wait_until(lambda: sum(vars(tally).values()) == MESSAGES, what="all at the proxy")
    wait_until(
        lambda: len(numbers(got)) >= tally.passed + tally.delayed + 2 * tally.duplicated, what="all that remains"
    )
    assert speaker.publish("good", b"last")
    wait_until(lambda: b"last" in got, what="what was sent last")
    assert (speaker.connects, listener.connects) == (1, 1)


def numbers(got: list[bytes]) -> list[bytes]:
    return [payload for payload in got if payload.isdigit()]


def assert_as_counted(tally: Tally, got: list[bytes], mixture: dict[str, float]) -> None:
    times = Counter(numbers(got))
    assert tally.lost == MESSAGES - len(times)
    assert tally.duplicated == sum(count == 2 for count in times.values())
    assert tally.passed + tally.delayed == sum(count == 1 for count in times.values())
    for share, counter in TALLIES.items():
        expected = mixture.get(share, 0.0) * MESSAGES
        assert abs(getattr(tally, counter) - expected) <= 0.15 * MESSAGES * (0 < expected < MESSAGES)


@pytest.mark.parametrize("mixture", MIXTURES, ids=lambda mixture: "-".join(mixture) or "nothing")
def test_what_a_client_says_through_it_arrives_as_counted(
    mixture: dict[str, float], any_broker: RunningBroker, wait_until: Callable[..., None]
):
    got: list[bytes] = []
    with (
        FaultProxy(any_broker.address, concerns=concerns, seed=1, **mixture) as proxy,
        connected(any_broker.address, "listener", got) as listener,
        connected(proxy.address, "speaker") as speaker,
    ):
        exchange(speaker, listener, proxy.tally, got, wait_until)
        assert_as_counted(proxy.tally, got, mixture)


@pytest.mark.parametrize("mixture", MIXTURES, ids=lambda mixture: "-".join(mixture) or "nothing")
def test_what_a_client_hears_through_it_is_what_is_counted(
    mixture: dict[str, float], any_broker: RunningBroker, wait_until: Callable[..., None]
):
    got: list[bytes] = []
    with (
        FaultProxy(any_broker.address, concerns=concerns, seed=1, **mixture) as proxy,
        connected(proxy.address, "listener", got) as listener,
        connected(any_broker.address, "speaker") as speaker,
    ):
        exchange(speaker, listener, proxy.tally, got, wait_until)
        assert_as_counted(proxy.tally, got, mixture)


def test_other_topics_and_messages_without_acks_pass_uncounted(
    any_broker: RunningBroker, wait_until: Callable[..., None]
):
    got: list[bytes] = []
    with (
        FaultProxy(any_broker.address, concerns=concerns, loss=1.0) as proxy,
        connected(any_broker.address, "listener", got),
        connected(proxy.address, "speaker") as speaker,
    ):
        wait_until(lambda: speaker.publish("good", b"first") and got, what="the subscription")
        speaker.publish("bad/a", b"lost")
        speaker.publish("bad/a", b"without an ack", qos=0)
        speaker.publish("good", b"last")
        wait_until(lambda: b"last" in got, what="what was sent last")
    assert got[got.index(b"without an ack") :] == [b"without an ack", b"last"]
    assert proxy.tally == Tally(lost=1)


def test_a_delayed_message_comes_after_later_ones(mosquitto: RunningBroker, wait_until: Callable[..., None]):
    got: list[bytes] = []
    with (
        FaultProxy(mosquitto.address, concerns=concerns, delay=1.0, delay_s=0.5) as proxy,
        connected(mosquitto.address, "listener", got),
        connected(proxy.address, "speaker") as speaker,
    ):
        wait_until(lambda: speaker.publish("good", b"first") and got, what="the subscription")
        speaker.publish("bad/a", b"early")
        assert speaker.flush(10)  # else both may be read at once, and the order proves nothing
        speaker.publish("good", b"late")
        wait_until(lambda: b"early" in got, what="the delayed message")
    assert got[-2:] == [b"late", b"early"]


def test_a_delayed_message_whose_connection_ends_is_counted_as_lost(mosquitto: RunningBroker):
    with (
        FaultProxy(mosquitto.address, concerns=concerns, delay=1.0, delay_s=60.0) as proxy,
        connected(proxy.address, "speaker") as speaker,
    ):
        for _ in range(30):
            assert speaker.publish("bad/a", b"")
        assert speaker.flush(10)
        assert proxy.tally == Tally(delayed=30)
    assert proxy.tally == Tally(lost=30)


def test_properties_of_version_5_are_kept_in_originals_and_in_copies(
    mosquitto: RunningBroker, wait_until: Callable[..., None]
):
    heard: list[tuple[int, list[tuple[str, str]], str, bytes]] = []

    def hear(_client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        said = message.properties
        assert said is not None
        heard.append((message.qos, said.UserProperty, said.ContentType, message.payload))

    listener = paho.Client(CallbackAPIVersion.VERSION2, client_id="listener", protocol=MQTTProtocolVersion.MQTTv5)
    listener.on_connect = lambda *_: listener.subscribe("bad/a", 1)
    listener.on_message = hear
    with (
        FaultProxy(mosquitto.address, concerns=concerns, duplicates=1.0) as proxy,
        running(listener, mosquitto.address),
        running(paho_client(MQTTProtocolVersion.MQTTv5), proxy.address) as speaker,
    ):
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = [("colour", "red"), ("x" * 200, "long")]
        properties.ContentType = "application/msgpack"
        wait_until(
            lambda: speaker.publish("bad/a", b"body", qos=1, properties=properties).rc == 0 and len(heard) >= 2,
            what="message and copy",
        )
    assert {qos for qos, *_ in heard} == {0, 1}
    assert {(*map(tuple, said), kind, body) for _, said, kind, body in heard} == {
        (("colour", "red"), ("x" * 200, "long"), "application/msgpack", b"body")
    }


def test_a_topic_alias_is_refused_loudly(mosquitto: RunningBroker):
    with pytest.raises(TopicAliasUsed):
        publish_with_topic_alias(mosquitto.address)


def publish_with_topic_alias(address: BrokerAddress) -> None:
    properties = Properties(PacketTypes.PUBLISH)
    properties.TopicAlias = 1
    with (
        FaultProxy(address, concerns=concerns) as proxy,
        running(paho_client(MQTTProtocolVersion.MQTTv5), proxy.address) as speaker,
    ):
        speaker.publish("bad/a", b"names it", qos=1, properties=properties).wait_for_publish(10)
        speaker.publish("", b"uses it", qos=1, properties=properties).wait_for_publish(1)


def test_version_3_1_1_passes_to_a_broker_of_version_5(mosquitto: RunningBroker, wait_until: Callable[..., None]):
    got: list[bytes] = []
    with (
        FaultProxy(mosquitto.address, concerns=concerns, duplicates=1.0) as proxy,
        connected(mosquitto.address, "listener", got),
        running(paho_client(MQTTProtocolVersion.MQTTv311), proxy.address) as speaker,
    ):
        wait_until(lambda: speaker.publish("good", b"first", qos=1).rc == 0 and got, what="the subscription")
        sent = speaker.publish("bad/a", b"twice", qos=1)
        wait_until(lambda: got.count(b"twice") == 2 and sent.is_published(), what="message and copy")


def test_clients_lose_their_connection_with_the_broker_and_come_back_with_it(wait_until: Callable[..., None]):
    address = BrokerAddress("127.0.0.1", free_port())
    with (
        FaultProxy(address, concerns=concerns) as proxy,
        MqttConnection(proxy.address, client_id="x", subscriptions=[]) as connection,
    ):
        for times in (1, 2):
            with start_broker(address.port):
                wait_until(lambda times=times: connection.connects == times, timeout_s=30, what="a connection")
            wait_until(lambda: not connection.is_connected, what="its end")


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_a_packet_of_any_size_is_written_as_it_was_read(size: int):
    async def read(packet: bytes) -> tuple[int, bytes]:
        source = asyncio.StreamReader()
        source.feed_data(packet)
        source.feed_eof()
        return await fault_proxy._read_packet(source)

    packet = fault_proxy._packet(0x30, bytes(size))
    assert len(packet) == size + 1 + (1 if size < 128 else 2 if size < 16_384 else 3 if size < 2_097_152 else 4)
    assert asyncio.run(read(packet)) == (0x30, bytes(size))


@pytest.mark.parametrize("shares", [{"loss": 0.6, "delay": 0.6}, {"duplicates": -0.1}])
def test_shares_that_are_none_are_refused(shares: dict[str, float]):
    with pytest.raises(ValueError, match="shares of one whole"):
        FaultProxy(BrokerAddress("127.0.0.1"), concerns=concerns, **shares)


def paho_client(version: MQTTProtocolVersion) -> paho.Client:
    return paho.Client(CallbackAPIVersion.VERSION2, client_id="speaker", protocol=version)


@contextmanager
def running(client: paho.Client, address: BrokerAddress) -> Iterator[paho.Client]:
    client.connect(address.host, address.port)
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()
