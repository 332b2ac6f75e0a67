"""`python -m edgerl.embedded_broker --port N`: amqtt, for a try-out without mosquitto. Good for some fifty boards.

Guard rails, because of what amqtt does not do:

- It listens on 127.0.0.1 and nowhere else, and lets everybody in.
- It speaks MQTT 3.1.1 only, and keeps everything in memory: when it ends, retained messages are gone.
- It pushes retained messages to clients that asked for none, so nothing secret may be retained on it.
- It has no limits on message sizes and queues: a stalled subscriber costs memory.
- It grants `$share/` subscriptions and delivers nothing on them.
"""

import argparse
import asyncio
import logging

from amqtt.broker import Broker


async def serve(port: int) -> None:
    """Serve until the process is told to end; there is nothing to save."""
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="amqtt on loopback; `edgerl broker run` chooses and watches a broker.")
    parser.add_argument("--port", type=int, required=True)
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(serve(parser.parse_args().port))
