"""The operator's commands to a board: noted, signed, sent, and waited for."""

import queue
import time
from collections import deque
from collections.abc import Iterator
from typing import Final, Self

from fleet_protocol.address import BrokerAddress
from fleet_protocol.audit import AuditLog
from fleet_protocol.clock import utc_milliseconds, utc_timestamp
from fleet_protocol.codec import BadMessage, decode, encode
from fleet_protocol.commands import Bench, Command, CommandReply, kind_of, words_of
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import Birth, LogLine, Status
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.signing import Signer, seal_frame
from fleet_protocol.topics import FleetTopics

_CONNECT_WAIT_S: Final = 10.0
_STATUS_WAIT_S: Final = 5.0
_SPARE_VALID_S: Final = 30.0
"""A command outlives the wait for its answer by so much: the board's clock may be ahead of ours."""
_LOOK_S: Final = 0.5
_LINES: Final = 20
_UNSIGNED_ISSUER: Final = "manager"


class BoardCommander:
    """Commands one board, one command after the other; a context manager.

    Args:
        address: The broker.
        fleet: The fleet's name.
        board_id: The board.
        audit: Every command is in it before it is sent, and then its answer.
        signer: Signs the commands; None leaves them unsigned, for loopback. Boards keep a counter for each key.
    """

    def __init__(
        self,
        address: BrokerAddress,
        *,
        fleet: str,
        board_id: str,
        audit: AuditLog,
        signer: Signer | None = None,
    ) -> None:
        topics = FleetTopics(fleet)
        self._topics = topics
        self._board_id = board_id
        self._audit = audit
        self._signer = signer
        self._issuer = signer.key.key_id if signer else _UNSIGNED_ISSUER
        self._statuses: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._lines: deque[bytes] = deque(maxlen=_LINES)
        self._connection = MqttConnection(
            address,
            client_id=f"manager-{fleet}",
            subscriptions=[
                Subscription(topics.status(board_id), 1, lambda _topic, payload: self._statuses.put(payload)),
                Subscription(topics.up(board_id, "reply"), 1, lambda _topic, payload: self._replies.put(payload)),
                Subscription(topics.up(board_id, "log"), 0, lambda _topic, payload: self._lines.append(payload)),
            ],
        )

    def __enter__(self) -> Self:
        self._connection.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def find(self) -> Birth:
        """What the board says of itself.

        Raises:
            ProgramError: There is no broker, no such board, or it is gone.
        """
        self._connection.wait_connected(_CONNECT_WAIT_S)
        for payload in self._arrivals(self._statuses, _STATUS_WAIT_S):
            try:
                status = decode(payload, Status)
            except BadMessage:
                continue
            if isinstance(status, Birth):
                return status
            raise self._failed(f"is gone ({status.reason}): nobody would carry the command out")
        raise self._failed("has never been at this broker: nobody would carry the command out")

    def send(self, command: Command | Bench, *, run_id: str, wait_s: float) -> CommandReply:
        """Command the board, and wait for its answer, which may say that it could not do it.

        Args:
            command: What it shall do.
            run_id: The run that the command belongs to; empty = none.
            wait_s: So long the answer may take; soon afterwards the command is void.

        Raises:
            ProgramError: There was no answer; or the command could not be noted, and then it was not sent.
        """
        self._connection.wait_connected(_CONNECT_WAIT_S)
        counter = self._note(command, valid_s=wait_s + _SPARE_VALID_S)
        frame = seal_frame(
            encode(command),
            kind=kind_of(command),
            version=counter,
            run_id=run_id,
            target=self._board_id,
            issuer=self._issuer,
            valid_s=wait_s + _SPARE_VALID_S,
            signer=self._signer,
        )
        self._lines.clear()
        self._connection.publish(self._topics.down(self._board_id, kind_of(command)), frame)
        reply = self._reply(counter, wait_s)
        problem = "no answer in time" if reply is None else reply.problem.sentence if reply.problem else ""
        self._audit.append("answer", issuer=self._issuer, board=self._board_id, counter=counter, problem=problem)
        if reply is None:
            raise self._failed(f"did not answer within {wait_s:g} s.{self._last_warning()}")
        return reply

    def _note(self, command: Command | Bench, *, valid_s: float) -> int:
        """Put a command into the audit, and return its counter."""
        now = utc_timestamp()
        return self._audit.append_numbered(
            "command",
            issuer=self._issuer,
            board=self._board_id,
            # A clock rises even where the audit was lost; the audit rises even where the clock was set back.
            at_least=utc_milliseconds(),
            command=words_of(command),
            expires_at=now + valid_s,
        )

    def _reply(self, counter: int, wait_s: float) -> CommandReply | None:
        for payload in self._arrivals(self._replies, wait_s):
            try:
                reply = decode(payload, CommandReply)
            except BadMessage:
                continue
            if (reply.issuer, reply.counter) == (self._issuer, counter):
                return reply
        return None

    def _arrivals(self, arrived: "queue.SimpleQueue[bytes]", timeout_s: float) -> Iterator[bytes]:
        """What comes until the time is over."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            self._connection.raise_failure()
            try:
                yield arrived.get(timeout=min(left_s, _LOOK_S))
            except queue.Empty:
                continue

    def _last_warning(self) -> str:
        """Why it may be silent: it says what it refuses."""
        for payload in reversed(self._lines):
            try:
                line = decode(payload, LogLine)
            except BadMessage:
                continue
            if line.level == "warning":
                return f" It said: {line.text}"
        return "" if self._connection.is_connected else " The broker is gone."

    def _failed(self, what: str) -> ProgramError:
        return ProgramError(ExitCode.COMMAND_FAILED, f"board {self._board_id!r} {what}")
