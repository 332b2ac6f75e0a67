"""Plays many boards from one asyncio process: real sessions, codec, outbox and acks; only experience is a recording.

`python tests/swarm/swarm.py --broker 127.0.0.1:1883 --boards 200` runs beside a real learner and monitor.
"""

import argparse
import asyncio
import random
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field

import aiomqtt
import numpy as np

from edge_actor.outbox import Outbox
from fleet_protocol.address import BrokerAddress
from fleet_protocol.codec import decode, encode
from fleet_protocol.messages import (
    Ack,
    Birth,
    Command,
    CommandReply,
    Death,
    LearnerReport,
    Pause,
    RunSpec,
    Telemetry,
    TrajectoryMessage,
)
from fleet_protocol.signing import open_frame
from fleet_protocol.spaces import BoxSpec, DiscreteSpec
from fleet_protocol.topics import FleetTopics
from fleet_protocol.trajectory import Trajectory, pack_trajectory


def recorded_window(run: RunSpec, version: int, seed: int) -> bytes:
    """A window as CartPole might have made it, acted by one policy version."""
    rng = np.random.default_rng(seed)
    shape = (run.unroll_length, run.copies)
    return pack_trajectory(
        Trajectory(
            head="categorical",
            observations=rng.standard_normal((run.unroll_length + 1, run.copies, 4), np.float32),
            actions=rng.integers(0, 2, shape).astype(np.uint8),
            rewards=np.ones(shape, np.float32),
            terminated=rng.random(shape) < 0.02,
            truncated=np.zeros(shape, np.bool_),
            is_first=np.zeros(shape, np.bool_),
            behavior_params=np.zeros((*shape, 1), np.int8),
            policy_versions=np.full(run.unroll_length, version, np.int64),
            final_steps=np.empty(0, np.int32),
            final_observations=np.empty((0, 4), np.float32),
        )
    )


@dataclass
class SwarmBoard:
    """One board of the swarm.

    Attributes:
        board_id: Its name.
        period_s: Seconds between windows, while the learner keeps up.
    """

    board_id: str
    fleet: str
    period_s: float
    boot_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    session_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def __post_init__(self) -> None:
        self.topics = FleetTopics(self.fleet)
        self.outbox = Outbox(max_bytes=2**24, clock=time.monotonic, rng=random.Random(self.board_id))
        self.run: RunSpec | None = None
        self.version = 0
        self.is_paused = False
        self.acked = 0

    async def live(self, address: BrokerAddress) -> None:
        """Connect, announce, produce and answer until cancelled."""
        will = aiomqtt.Will(self.topics.status(self.board_id), encode(self._death()), qos=1, retain=True)
        async with aiomqtt.Client(address.host, address.port, identifier=self.board_id, will=will) as client:
            for topic in (self.topics.run, self.topics.learner, self.topics.down(self.board_id, "+")):
                await client.subscribe(topic, qos=1)
            producing = asyncio.create_task(self._produce(client))
            try:
                async for message in client.messages:
                    await self._hear(client, str(message.topic), bytes(message.payload))
            finally:
                producing.cancel()
                with suppress(asyncio.CancelledError):
                    await producing

    async def _hear(self, client: aiomqtt.Client, topic: str, payload: bytes) -> None:
        address = self.topics.parse(topic)
        match address.kind if address else "":
            case "run":
                _, body = open_frame(payload, kind="run", unsigned_allowed=True)
                self.run = decode(body, RunSpec)
                await client.publish(
                    self.topics.status(self.board_id), encode(self._birth(self.run)), qos=1, retain=True
                )
            case "learner":
                self.version = max(decode(payload, LearnerReport).versions.values())
            case "ack":
                ack = decode(payload, Ack)
                if ack.boot_id == self.boot_id:
                    self.acked += len(self.outbox.ack(ack.finished))
            case "command":
                header, body = open_frame(payload, kind="command", unsigned_allowed=True)
                await self._obey(client, header.issuer, header.version, decode(body, Command))
            case _:
                pass

    async def _obey(self, client: aiomqtt.Client, issuer: str, counter: int, command: Command) -> None:
        if isinstance(command, Pause):
            self.is_paused = True
            await client.publish(self.topics.up(self.board_id, "telemetry"), encode(self._telemetry()))
            reply = CommandReply(
                board_id=self.board_id,
                boot_id=self.boot_id,
                issuer=issuer,
                counter=counter,
                result=self.outbox.at_rest(command.run_id),
            )
            await client.publish(self.topics.up(self.board_id, "reply"), encode(reply), qos=1)

    async def _produce(self, client: aiomqtt.Client) -> None:
        telemetry_due = 0.0
        while True:
            await asyncio.sleep(self.period_s * random.uniform(0.5, 1.5))
            run = self.run
            if run is not None and self.version and not self.is_paused and len(self.outbox) < run.max_in_flight:
                body = recorded_window(run, self.version, seed=random.getrandbits(32))
                self.outbox.add(body, run_id=run.run_id, worker=0, env_steps=run.unroll_length * run.copies)
            for entry in self.outbox.due():
                message = TrajectoryMessage(
                    run_id=entry.run_id,
                    board_id=self.board_id,
                    boot_id=self.boot_id,
                    seq=entry.seq,
                    oldest_seq=self.outbox.oldest_seq,
                    body=entry.body,
                )
                self.outbox.mark_sent(entry)
                await client.publish(self.topics.up(self.board_id, "trajectory"), encode(message), qos=1)
            if time.monotonic() >= telemetry_due:
                telemetry_due = time.monotonic() + 2.0
                await client.publish(self.topics.up(self.board_id, "telemetry"), encode(self._telemetry()))

    def _telemetry(self) -> Telemetry:
        return Telemetry(
            board_id=self.board_id,
            boot_id=self.boot_id,
            uptime_s=0.0,
            run_id=self.run.run_id if self.run else "",
            policy_version=self.version,
            runs=self.outbox.counters(),
        )

    def _birth(self, run: RunSpec) -> Birth:
        return Birth(
            board_id=self.board_id,
            boot_id=self.boot_id,
            session_id=self.session_id,
            software="swarm",
            run_id=run.run_id,
            observation_space=BoxSpec(shape=(4,), dtype="float32"),
            action_space=DiscreteSpec(n=2),
            copies=run.copies,
        )

    def _death(self) -> Death:
        return Death(board_id=self.board_id, boot_id=self.boot_id, session_id=self.session_id, reason="lost")


async def play(boards: list[SwarmBoard], address: BrokerAddress) -> None:
    """Have all boards live until cancelled."""
    async with asyncio.TaskGroup() as group:
        for board in boards:
            group.create_task(board.live(address))


def main() -> None:
    """Play a swarm from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", default="127.0.0.1:1883")
    parser.add_argument("--fleet", default="demo")
    parser.add_argument("--boards", type=int, default=50)
    parser.add_argument("--period-s", type=float, default=1.0, help="seconds between windows of one board")
    flags = parser.parse_args()
    boards = [SwarmBoard(f"swarm-{n:04d}", flags.fleet, flags.period_s) for n in range(flags.boards)]
    with suppress(KeyboardInterrupt):
        asyncio.run(play(boards, BrokerAddress.parse(flags.broker).require_loopback()))


if __name__ == "__main__":
    main()
