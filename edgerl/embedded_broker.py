"""`python -m edgerl.embedded_broker PORT`: amqtt on loopback, for a try-out without mosquitto.

It speaks MQTT 3.1.1 only, keeps everything in memory, and pushes retained messages to clients that asked for none, so
nothing secret may be retained on it. Good for some fifty boards; mosquitto for more. Ends when its standard input does.
"""

import asyncio
import logging
import sys
from typing import Any, Final

from amqtt.broker import Broker

_CONFIG: Final[dict[str, Any]] = {
    "listeners": {"default": {"type": "tcp", "bind": ""}},
    "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
}


async def serve(port: int) -> None:
    """Serve until standard input ends: then the program that started this is gone."""
    config = _CONFIG | {"listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}}
    broker = Broker(config)
    await broker.start()
    try:
        await asyncio.to_thread(sys.stdin.buffer.read)
    finally:
        await broker.shutdown()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(serve(int(sys.argv[1])))
