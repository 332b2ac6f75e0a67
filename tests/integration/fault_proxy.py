"""A proxy that speaks MQTT, and loses, doubles, redelivers or delays messages *behind* their PUBACK.

TCP promises that nothing is lost between two ends, so swallowing bare packets only wedges a QoS 1 client. Real loss
happens behind a PUBACK: here the proxy answers it itself. What it injects goes at QoS 0, without a packet id, so that
no id means two things. It need not know the version: up to the properties, which it leaves as they are, a PUBLISH is
the same in 3.1.1 and 5, and so is a PUBACK that says nothing but the id.
"""

import asyncio
import random
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from fleet_protocol.address import BrokerAddress

PUBLISH, PUBACK = 3, 4
QOS_BITS, QOS_1, DUP_BIT = 0b0110, 0b0010, 0b1000


class TopicAliasUsed(Exception):
    """A message without its topic: a proxy that loses the one that named it would break the ones that follow."""


Way = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Tally:
    """What happened to the messages that concern the proxy; each is in one of the five.

    While connections last, passed + delayed + 2 (duplicated + redelivered) messages arrive. A delayed one whose
    connection ends before its time is counted as lost.
    """

    passed: int = 0
    lost: int = 0
    duplicated: int = 0
    redelivered: int = 0
    delayed: int = 0


@dataclass
class _Session:
    """One client's connection: the messages that still wait for their time."""

    waiting: set["asyncio.Task[None]"] = field(default_factory=set)


class FaultProxy:
    """Stands between clients and a broker, and treats QoS 1 messages of both directions badly; a context manager.

    Leaving the context raises what went wrong in the proxy itself. `address` is where clients connect to.

    Args:
        upstream: The broker.
        concerns: Which topics it treats badly.
        loss: Share of messages that vanish.
        duplicates: Share that comes twice, the second time as a message of its own.
        redeliveries: Share that comes twice, the second time with the DUP flag, as after an ack that was lost.
        delay: Share that comes later.
        delay_s: How much later.
        seed: Of the choice; what one message meets depends on the order in which all arrive here.
    """

    def __init__(
        self,
        upstream: BrokerAddress,
        *,
        concerns: Callable[[str], bool],
        loss: float = 0.0,
        duplicates: float = 0.0,
        redeliveries: float = 0.0,
        delay: float = 0.0,
        delay_s: float = 0.3,
        seed: int = 0,
    ) -> None:
        shares = (loss, duplicates, delay, redeliveries)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"expected shares of one whole, got {shares}")
        self._upstream = upstream
        self._concerns = concerns
        self._shares = shares
        self._delay_s = delay_s
        self._rng = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._connections: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self.tally = Tally()

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._accept, "127.0.0.1", 0), self._loop
        ).result(5)
        self.address = BrokerAddress("127.0.0.1", self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        if self._failure is not None and kind is None:
            raise self._failure

    def cut(self) -> None:
        """End all connections; new ones are welcome."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(5)

    async def _stop(self) -> None:
        self._server.close()
        await self._cut()

    async def _cut(self) -> None:
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            broker, to_broker = await asyncio.open_connection(self._upstream.host, self._upstream.port)
            try:
                await self._serve((client, to_client), (broker, to_broker))
            finally:
                await _close(to_broker)
        except (OSError, asyncio.CancelledError):
            pass  # there is no broker, or the test is over
        finally:
            await _close(to_client)
            self._connections.discard(task)

    async def _serve(self, client: Way, broker: Way) -> None:
        session = _Session()
        ways = [
            asyncio.ensure_future(self._pump(session, client[0], client[1], broker[1])),
            asyncio.ensure_future(self._pump(session, broker[0], broker[1], client[1])),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in [*ways, *session.waiting]:
                task.cancel()
            for error in await asyncio.gather(*ways, *session.waiting, return_exceptions=True):
                if error and not isinstance(error, (OSError, asyncio.IncompleteReadError, asyncio.CancelledError)):
                    self._failure = self._failure or error

    async def _pump(
        self,
        session: _Session,
        source: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        target: asyncio.StreamWriter,
    ) -> None:
        while True:
            head, body = await _read_packet(source)
            topic = _topic_of(body) if head >> 4 == PUBLISH else ""
            if topic and head & QOS_BITS == QOS_1 and self._concerns(topic):
                self._mistreat(session, head, body, back, target)
            else:
                target.write(_packet(head, body))
            await target.drain()

    def _mistreat(
        self, session: _Session, head: int, body: bytes, back: asyncio.StreamWriter, target: asyncio.StreamWriter
    ) -> None:
        loss, duplicates, delay, redeliveries = self._shares
        chance = self._rng.random()
        if chance < loss:
            self.tally.lost += 1
            back.write(_puback(body))
        elif chance < loss + duplicates:
            self.tally.duplicated += 1
            target.write(_packet(head, body))
            target.write(_without_qos(head, body))
        elif chance < loss + duplicates + delay:
            self.tally.delayed += 1
            back.write(_puback(body))
            task = asyncio.ensure_future(self._later(_without_qos(head, body), target))
            session.waiting.add(task)
            task.add_done_callback(session.waiting.discard)
            task.add_done_callback(self._count_if_cut)
        elif chance < loss + duplicates + delay + redeliveries:
            self.tally.redelivered += 1
            target.write(_packet(head, body) + _packet(head | DUP_BIT, body))
        else:
            self.tally.passed += 1
            target.write(_packet(head, body))

    async def _later(self, packet: bytes, target: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self._delay_s)
        target.write(packet)

    def _count_if_cut(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            self.tally.delayed -= 1
            self.tally.lost += 1


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _read_packet(source: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await source.readexactly(1))[0]
    size, shift = 0, 0
    while True:
        digit = (await source.readexactly(1))[0]
        size |= (digit & 0x7F) << shift
        shift += 7
        if digit < 0x80:
            return head, await source.readexactly(size)


def _packet(head: int, body: bytes) -> bytes:
    size, digits = len(body), bytearray()
    while True:
        size, digit = size >> 7, size & 0x7F
        digits.append(digit | (0x80 if size else 0))
        if not size:
            return bytes([head]) + bytes(digits) + body


def _topic_of(body: bytes) -> str:
    (size,) = struct.unpack_from(">H", body)
    if size == 0:
        raise TopicAliasUsed
    return body[2 : 2 + size].decode(errors="replace")


def _packet_id_at(body: bytes) -> int:
    return 2 + struct.unpack_from(">H", body)[0]


def _puback(body: bytes) -> bytes:
    at = _packet_id_at(body)
    return _packet(PUBACK << 4, body[at : at + 2])


def _without_qos(head: int, body: bytes) -> bytes:
    at = _packet_id_at(body)
    return _packet(head & ~(QOS_BITS | DUP_BIT), body[:at] + body[at + 2 :])
