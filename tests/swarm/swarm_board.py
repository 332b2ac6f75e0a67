"""One board of the swarm: real sessions, codec, outbox, resends and acks; only its experience is a recording."""

import asyncio
import random
import time
import uuid
from functools import lru_cache
from typing import Final

import aiomqtt
import numpy as np

from edge_actor.outbox import Outbox
from edge_actor.outbox_entry import OutboxEntry
from fleet_protocol.address import BrokerAddress
from fleet_protocol.backoff import Backoff
from fleet_protocol.codec import decode, encode
from fleet_protocol.commands import Command, CommandReply, Pause, Resume
from fleet_protocol.exit_codes import ProgramError
from fleet_protocol.messages import Ack, Birth, Death, LearnerReport, RunSpec, Status, Telemetry, TrajectoryMessage
from fleet_protocol.signing import open_frame
from fleet_protocol.spaces import BoxSpec, DiscreteSpec
from fleet_protocol.topics import FleetTopics
from fleet_protocol.trajectory import Trajectory, pack_trajectory

_KEEPALIVE_S: Final = 30
_INFLIGHT: Final = 20
_LASTED_S: Final = 10.0
_TICK_S: Final = 0.5
"""A board looks so often whether something is due; a real one does so every 0.25 s."""
_TELEMETRY_PERIOD_S: Final = 2.0
_OUTBOX_BYTES: Final = 2**24
_RECORDINGS: Final = 8


@lru_cache(maxsize=4 * _RECORDINGS)
def recorded_window(unroll_length: int, copies: int, version: int, seed: int) -> bytes:
    """A window as CartPole might have made it, acted by one policy version; boards share a few of each version."""
    rng = np.random.default_rng(seed)
    shape = (unroll_length, copies)
    return pack_trajectory(
        Trajectory(
            head="categorical",
            observations=rng.standard_normal((unroll_length + 1, copies, 4), np.float32),
            actions=rng.integers(0, 2, shape).astype(np.uint8),
            rewards=np.ones(shape, np.float32),
            terminated=rng.random(shape) < 0.02,
            truncated=np.zeros(shape, np.bool_),
            is_first=np.zeros(shape, np.bool_),
            behavior_params=np.zeros((*shape, 1), np.int8),
            policy_versions=np.full(unroll_length, version, np.int64),
            final_steps=np.empty(0, np.int32),
            final_observations=np.empty((0, 4), np.float32),
        )
    )


class SwarmBoard:
    """One board of the swarm.

    Args:
        board_id: Its name.
        address: The broker, with this board's files where it wants TLS.
        fleet: The fleet's name.
        period_s: Seconds between windows, while the learner keeps up.

    Attributes:
        is_connected: There is a session.
        connects: Sessions so far.
        has_run: The broker has sent its retained RunSpec on this session.
        has_policy: The same of a policy.
        acked: Windows that the learner has finished.
        acked_now: Of these, on this session.
    """

    def __init__(self, board_id: str, address: BrokerAddress, *, fleet: str, period_s: float) -> None:
        self.board_id = board_id
        self._address = address
        self._period_s = period_s
        self._topics = FleetTopics(fleet)
        self._boot_id = uuid.uuid4().hex[:12]
        self._session_id = ""
        self._rng = random.Random()
        self.outbox = Outbox(max_bytes=_OUTBOX_BYTES, clock=time.monotonic, rng=self._rng, boot_id=self._boot_id)
        self._run: RunSpec | None = None
        self._version = 0
        self._is_paused = False
        self._started = time.monotonic()
        self._window_due = self._telemetry_due = 0.0
        self.is_connected = self.has_run = self.has_policy = False
        self.connects = self.acked = self.acked_now = 0

    async def live(self) -> None:
        """Keep a session for ever, as `MqttConnection` does for a real board."""
        backoff = Backoff(self._rng)
        while True:
            started = time.monotonic()
            try:
                await self._one_session()
            except* (aiomqtt.MqttError, ProgramError):
                pass  # the broker has gone, or is not there
            finally:
                self.is_connected = False
            await asyncio.sleep(backoff.next_wait_s(has_lasted=time.monotonic() - started > _LASTED_S))

    async def _one_session(self) -> None:
        self._session_id = uuid.uuid4().hex[:12]
        self.has_run = self.has_policy = False
        self.acked_now = 0
        status = self._topics.status(self.board_id)
        client = aiomqtt.Client(
            self._address.host,
            self._address.port,
            identifier=self.board_id,
            will=aiomqtt.Will(status, encode(self._death()), qos=1, retain=True),
            tls_context=self._address.tls.context() if self._address.tls else None,
            keepalive=_KEEPALIVE_S,
            max_inflight_messages=_INFLIGHT,
        )
        down = self._topics.down(self.board_id, "+")
        retained = [(self._topics.run, 1), (self._topics.policy("#"), 0), (self._topics.learner, 1)]
        async with client:
            self.is_connected = True
            self.connects += 1
            await client.subscribe([*retained, (status, 1), (down, 1)])
            await self._announce(client)
            self.outbox.resend_all()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(client))
                group.create_task(self._send(client))

    # --- what comes -------------------------------------------------------------------------------------------------

    async def _listen(self, client: aiomqtt.Client) -> None:
        try:
            async for message in client.messages:
                await self._hear(client, str(message.topic), bytes(message.payload))
        finally:
            self.is_connected = False  # under Python 3.11, aiomqtt may swallow the cancellation of the other task

    async def _hear(self, client: aiomqtt.Client, topic: str, payload: bytes) -> None:
        address = self._topics.parse(topic)
        match address.kind if address else "":
            case "run":
                await self._take_run(client, payload)
            case "policy":
                header, _ = open_frame(payload, kind="policy", unsigned_allowed=True)
                self._version = max(self._version, header.version)
                self.has_policy = True
            case "learner":
                decode(payload, LearnerReport)
            case "status":
                status = decode(payload, Status)
                if isinstance(status, Death) and status.session_id != self._session_id:
                    await self._announce(client)  # a late will of an old session: say that we live
            case "ack":
                ack = decode(payload, Ack)
                left = len(self.outbox.ack(ack.finished, boot_id=ack.boot_id))
                self.acked += left
                self.acked_now += left
            case "command":
                header, body = open_frame(payload, kind="command", unsigned_allowed=True)
                await self._obey(client, header.issuer, header.version, decode(body, Command))
            case _:
                pass

    async def _take_run(self, client: aiomqtt.Client, payload: bytes) -> None:
        _, body = open_frame(payload, kind="run", unsigned_allowed=True)
        run = decode(body, RunSpec)
        self.has_run = True
        if self._run is None or run.generation > self._run.generation:
            if self._run is None or run.run_id != self._run.run_id:
                self._version = 0
            self._run = run
            self._is_paused = False
            await self._announce(client)

    async def _obey(self, client: aiomqtt.Client, issuer: str, counter: int, command: Command) -> None:
        if not isinstance(command, Pause | Resume):
            return
        self._is_paused = isinstance(command, Pause)
        await self._send_telemetry(client)
        reply = CommandReply(
            board_id=self.board_id,
            boot_id=self._boot_id,
            issuer=issuer,
            counter=counter,
            result=self.outbox.at_rest(command.run_id) if isinstance(command, Pause) else None,
        )
        await client.publish(self._topics.up(self.board_id, "reply"), encode(reply), qos=1)

    # --- what goes --------------------------------------------------------------------------------------------------

    async def _announce(self, client: aiomqtt.Client) -> None:
        await client.publish(self._topics.status(self.board_id), encode(self._birth()), qos=1, retain=True)

    async def _send(self, client: aiomqtt.Client) -> None:
        while self.is_connected:
            self._produce()
            for entry in self.outbox.due():
                self.outbox.mark_sent(entry)
                await client.publish(self._topics.up(self.board_id, "trajectory"), encode(self._message(entry)), qos=1)
            if time.monotonic() >= self._telemetry_due:
                self._telemetry_due = time.monotonic() + _TELEMETRY_PERIOD_S
                await self._send_telemetry(client)
            await asyncio.sleep(min(_TICK_S, self._period_s) * self._rng.uniform(0.75, 1.25))

    def _produce(self) -> None:
        run, now = self._run, time.monotonic()
        if run is None:
            return
        self.outbox.drop_stale(run_id=run.run_id, max_age_s=run.max_age_s)
        is_free = not run.max_in_flight or len(self.outbox) < run.max_in_flight
        if self._version and is_free and not self._is_paused and now >= self._window_due:
            self._window_due = now + self._period_s * self._rng.uniform(0.5, 1.5)
            body = recorded_window(run.unroll_length, run.copies, self._version, self._rng.randrange(_RECORDINGS))
            self.outbox.add(body, run_id=run.run_id, worker=0, env_steps=run.unroll_length * run.copies)

    def _message(self, entry: OutboxEntry) -> TrajectoryMessage:
        return TrajectoryMessage(
            run_id=entry.run_id,
            board_id=self.board_id,
            boot_id=entry.boot_id,
            seq=entry.seq,
            oldest_seq=self.outbox.oldest_seq,
            body=entry.body,
        )

    async def _send_telemetry(self, client: aiomqtt.Client) -> None:
        telemetry = Telemetry(
            board_id=self.board_id,
            boot_id=self._boot_id,
            uptime_s=time.monotonic() - self._started,
            run_id=self._run.run_id if self._run else "",
            policy_version=self._version,
            highest_version_seen=self._version,
            runs=self.outbox.counters(),
            counters={"reconnects": self.connects - 1},
        )
        await client.publish(self._topics.up(self.board_id, "telemetry"), encode(telemetry))

    def _birth(self) -> Birth:
        return Birth(
            board_id=self.board_id,
            boot_id=self._boot_id,
            session_id=self._session_id,
            software="swarm",
            run_id=self._run.run_id if self._run else "",
            observation_space=BoxSpec(shape=(4,), dtype="float32"),
            action_space=DiscreteSpec(n=2),
            copies=self._run.copies if self._run else 0,
        )

    def _death(self) -> Death:
        return Death(board_id=self.board_id, boot_id=self._boot_id, session_id=self._session_id, reason="lost")
