"""A TCP proxy that is a bad line: down, reset, silent, slow, jittery, narrow, sliced, or cut after so many bytes.

Of a connection that lives it loses nothing and changes nothing, as TCP promises; where it swallows bytes it has gone
silent for good, and only a new connection helps. (Messages that are lost behind their PUBACK are `fault_proxy.py`'s.)
"""

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from fleet_protocol.address import BrokerAddress

CHUNK_BYTES = 65_536
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # linger for no time at all: what is unsent is thrown away, and a RST goes out


@dataclass(frozen=True)
class Line:
    """What every connection meets, in each direction; it may change while they last.

    Attributes:
        latency_s: How long a byte is under way ...
        jitter_s: ... give or take as much as this, evenly; no byte overtakes another.
        bytes_per_s: How much gets through; 0 = as much as comes.
        slice_bytes: The largest piece that arrives at once; 0 = as it comes.
        limit_bytes: After so many bytes of both directions together a connection is reset; 0 = never.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = 0.0
    slice_bytes: int = 0
    limit_bytes: int = 0


class _Connection:
    """One client's connection and the one behind it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = (client, server)
        self.is_silent = False
        self.bytes = 0

    def reset(self) -> None:
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            with suppress(OSError):  # it is closed already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            writer.transport.abort()


class TcpProxy:
    """Stands between clients and a server; a context manager.

    Args:
        upstream: The server.
        line: What the line is like at first.
        seed: Of the jitter.

    Attributes:
        address: Where clients connect to.
        line: What the line is like; set it to change that.
        accepted: Connections so far.
        resets: Those that `limit_bytes` has cut.
    """

    def __init__(self, upstream: BrokerAddress, *, line: Line | None = None, seed: int = 0) -> None:
        self._upstream = upstream
        self._rng = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._connections: dict[_Connection, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None
        self.line = line or Line()
        self.address = BrokerAddress("127.0.0.1", 0)
        self.accepted = self.resets = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def up(self) -> None:
        """Listen, on the port that was ours before."""
        self._call(self._up())

    def down(self) -> None:
        """Nobody listens any more, and all connections are reset."""
        self._call(self._down())

    def reset(self) -> None:
        """Reset all connections; new ones are welcome."""
        self._call(self._reset())

    def go_silent(self) -> None:
        """Swallow whatever comes on the connections that are open now, and keep them open; new ones work."""
        self._call(self._go_silent())

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _up(self) -> None:
        self._server = await asyncio.start_server(self._accept, self.address.host, self.address.port)
        self.address = BrokerAddress(self.address.host, self._server.sockets[0].getsockname()[1])

    async def _down(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._reset()

    async def _reset(self) -> None:
        tasks = list(self._connections.values())
        for connection in list(self._connections):
            connection.reset()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _go_silent(self) -> None:
        for connection in self._connections:
            connection.is_silent = True

    async def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        try:
            from_server, to_server = await asyncio.open_connection(self._upstream.host, self._upstream.port)
        except OSError:
            to_client.transport.abort()
            return
        connection = _Connection(to_client, to_server)
        self._connections[connection] = task
        try:
            await self._serve(connection, (from_client, to_server), (from_server, to_client))
        except (OSError, asyncio.CancelledError):
            pass  # one end has gone, or the line is down
        finally:
            del self._connections[connection]
            for writer in connection.writers:
                writer.close()

    async def _serve(self, connection: _Connection, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        pumps = [asyncio.ensure_future(self._pump(connection, source, target)) for source, target in ways]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.result()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, connection: _Connection, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Read at once and write in its time, so that a slow line holds many bytes under way."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=1000)
        writing = asyncio.ensure_future(self._deliver(connection, under_way, target))
        due = 0.0
        try:
            while chunk := await source.read(self.line.slice_bytes or CHUNK_BYTES):
                if connection.is_silent:
                    continue
                due = self._due(due, len(chunk))
                await under_way.put((due, chunk))
                if writing.done():
                    break
            await under_way.put((due, b""))
            await writing
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    def _due(self, last: float, size: int) -> float:
        line, now = self.line, self._loop.time()
        delay = max(0.0, line.latency_s + self._rng.uniform(-line.jitter_s, line.jitter_s))
        sent = max(last, now + delay)
        return sent + size / line.bytes_per_s if line.bytes_per_s else sent

    async def _deliver(
        self, connection: _Connection, under_way: "asyncio.Queue[tuple[float, bytes]]", target: asyncio.StreamWriter
    ) -> None:
        while True:
            due, chunk = await under_way.get()
            if not chunk:
                return
            await asyncio.sleep(due - self._loop.time())
            if connection.is_silent:
                continue
            limit = self.line.limit_bytes
            allowed = min(len(chunk), max(0, limit - connection.bytes)) if limit else len(chunk)
            connection.bytes += allowed
            target.write(chunk[:allowed])
            await target.drain()
            if limit and connection.bytes >= limit and not connection.is_silent:
                connection.is_silent = True  # the other way ends too
                self.resets += 1
                await asyncio.sleep(0.05)  # what was written before the limit arrives, as it does with toxiproxy
                connection.reset()
                return
