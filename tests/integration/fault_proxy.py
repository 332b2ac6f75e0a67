"""A proxy that speaks MQTT, and loses, doubles or delays messages *behind* their PUBACK.

TCP promises that nothing is lost between two ends, so swallowing bare packets only wedges a QoS 1 client. Real loss
happens behind a PUBACK: here the proxy answers it itself. What it injects later goes at QoS 0, without a packet id.
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

CONNECT, PUBLISH, PUBACK = 1, 3, 4
QOS_BITS, QOS_1 = 0b0110, 0b0010


@dataclass
class Tally:
    """What happened to the messages that concern the proxy."""

    passed: int = 0
    lost: int = 0
    duplicated: int = 0
    delayed: int = 0


@dataclass
class _Session:
    is_v5: bool = False
    tasks: set["asyncio.Task[None]"] = field(default_factory=set)


class FaultProxy:
    """Stands between clients and a broker; a context manager.

    Args:
        upstream: The broker.
        concerns: Which topics it treats badly.
        loss: Share of messages that vanish.
        duplicates: Share that comes twice.
        delay: Share that comes later.
        delay_s: How much later.
        seed: Of the choice.
    """

    def __init__(
        self,
        upstream: BrokerAddress,
        *,
        concerns: Callable[[str], bool],
        loss: float = 0.0,
        duplicates: float = 0.0,
        delay: float = 0.0,
        delay_s: float = 0.3,
        seed: int = 0,
    ) -> None:
        self._upstream = upstream
        self._concerns = concerns
        self._shares = (loss, duplicates, delay)
        self._delay_s = delay_s
        self._rng = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._connections: set[asyncio.Task[None]] = set()
        self.tally = Tally()

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._accept, "127.0.0.1", 0), self._loop
        ).result(5)
        self.address = BrokerAddress("127.0.0.1", self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one end is gone, or the test is over
        finally:
            self._connections.discard(task)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        broker, to_broker = await asyncio.open_connection(self._upstream.host, self._upstream.port)
        session = _Session()
        ways = [
            asyncio.ensure_future(self._pump(session, client, to_client, to_broker)),
            asyncio.ensure_future(self._pump(session, broker, to_broker, to_client)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in [*ways, *session.tasks]:
                task.cancel()
            await asyncio.gather(*ways, *session.tasks, return_exceptions=True)
            for writer in (to_client, to_broker):
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _pump(
        self,
        session: _Session,
        source: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        target: asyncio.StreamWriter,
    ) -> None:
        while True:
            head, body = await _read_packet(source)
            if head >> 4 == CONNECT:
                session.is_v5 = body[6] == 5
            elif head >> 4 == PUBLISH and head & QOS_BITS == QOS_1 and self._concerns(_topic_of(body)):
                self._mistreat(session, head, body, back, target)
                continue
            target.write(_packet(head, body))

    def _mistreat(
        self, session: _Session, head: int, body: bytes, back: asyncio.StreamWriter, target: asyncio.StreamWriter
    ) -> None:
        loss, duplicates, delay = self._shares
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
            session.tasks.add(task)
            task.add_done_callback(session.tasks.discard)
        else:
            self.tally.passed += 1
            target.write(_packet(head, body))

    async def _later(self, packet: bytes, target: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self._delay_s)
        target.write(packet)


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
    return body[2 : 2 + size].decode()


def _packet_id_at(body: bytes) -> int:
    return 2 + struct.unpack_from(">H", body)[0]


def _puback(body: bytes) -> bytes:
    at = _packet_id_at(body)
    return _packet(PUBACK << 4, body[at : at + 2])  # valid in 3.1.1, and in 5 it means success


def _without_qos(head: int, body: bytes) -> bytes:
    at = _packet_id_at(body)
    return _packet(head & ~(QOS_BITS | 0b1000), body[:at] + body[at + 2 :])
