"""Commands: checked for their counter, carried out, and answered exactly once."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge_actor.bench_messages import BenchReady, FromBench
from edge_actor.child_process import ChildProcess
from edge_actor.outbox import Outbox
from edge_actor.policy_shelf import PolicyShelf
from edge_actor.worker_messages import EvaluatePolicy
from edge_actor.workforce import Workforce
from fleet_protocol.codec import BadMessage
from fleet_protocol.commands import (
    AtRest,
    Bench,
    BenchResult,
    Command,
    CommandReply,
    Evaluate,
    EvaluationResult,
    Follow,
    Pause,
    Resume,
)
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.messages import FrameHeader, Problem
from fleet_protocol.signing import FrameRefused

_POLICY_WAIT_S: Final = 10.0
_REST_WAIT_S: Final = 30.0
_EVALUATION_LIMIT_S: Final = 600.0
_BENCH_LIMIT_S: Final = 120.0


@dataclass(slots=True)
class _Pending:
    header: FrameHeader
    command: Evaluate | Pause | Bench
    deadline: float
    is_started: bool = False


class Commander:
    """Keeps what was asked and not yet answered.

    Args:
        board_id: This board.
        boot_id: This start of the agent.
        shelf: Has the policy to evaluate.
        workforce: Carries commands out.
        outbox: Has the final counters.
        follow: Takes the group whose policies are to be let in.
        policy_bytes: What a policy may have.
        reply: Takes the answers.
        tell: Takes what is accepted, a counter's name and a sentence.
    """

    def __init__(
        self,
        board_id: str,
        boot_id: str,
        *,
        shelf: PolicyShelf,
        workforce: Workforce,
        outbox: Outbox,
        follow: Callable[[str], None],
        policy_bytes: int,
        reply: Callable[[CommandReply], None],
        tell: Callable[[str, str], None],
    ) -> None:
        self._board_id = board_id
        self._boot_id = boot_id
        self._shelf = shelf
        self._workforce = workforce
        self._outbox = outbox
        self._follow = follow
        self._policy_bytes = policy_bytes
        self._reply = reply
        self._tell = tell
        self._pending: list[_Pending] = []
        self._counters: dict[tuple[str, str], int] = {}
        self._is_paused = False
        self._bench: ChildProcess[FromBench] | None = None

    def begin_run(self) -> None:
        """Act: whoever has paused this board has paused it in the run before."""
        self._is_paused = False

    def take(self, header: FrameHeader, command: Command | Bench) -> None:
        """Begin to carry out a command.

        Raises:
            FrameRefused: Its counter is not above the last one of its issuer.
        """
        if header.version <= self._counters.get((header.kind, header.issuer), 0):
            raise FrameRefused("replayed", f"{header.kind} {header.version} of {header.issuer} was seen before")
        self._counters[header.kind, header.issuer] = header.version
        deed = command.__struct_config__.tag
        self._tell("commands_accepted", f"{deed}: command {header.version} of {header.issuer}")
        match command:
            case Resume():
                self._is_paused = False
                self._send(header)
            case Follow():
                self._follow(command.group)
                self._send(header)
            case Pause():
                self._is_paused = True
                self._pending.append(_Pending(header, command, time.monotonic() + _POLICY_WAIT_S))
            case Bench() if len(command.model) > self._policy_bytes:
                sentence = f"expected a policy of at most {self._policy_bytes} bytes, got {len(command.model)}"
                self._fail(header, sentence, code=ExitCode.USAGE)
            case Bench():
                self._pending.append(_Pending(header, command, time.monotonic() + _REST_WAIT_S))
            case Evaluate():
                self._pending.append(_Pending(header, command, time.monotonic() + _POLICY_WAIT_S))
        self._halt_or_go_on()

    def answer(self) -> None:
        """Answer what can be answered now; called after every turn of the supervisor's loop."""
        if self._pending:
            self._take_results()
            self._pending = [pending for pending in self._pending if not self._progress(pending)]
            self._halt_or_go_on()

    def end(self) -> None:
        """End what is under way."""
        if self._bench is not None:
            self._bench.end(wait_s=0.0)

    def _halt_or_go_on(self) -> None:
        """Nothing acts while a policy is measured."""
        is_measuring = any(isinstance(pending.command, Bench) for pending in self._pending)
        self._workforce.halt(halted=self._is_paused or is_measuring)

    def _progress(self, pending: _Pending) -> bool:
        """Carry a command on; True when it is answered."""
        if isinstance(pending.command, Pause):
            if self._workforce.is_at_rest:
                self._send(pending.header, self._outbox.at_rest(pending.command.run_id))
                return True
        elif isinstance(pending.command, Bench):
            if self._measure(pending, pending.command):
                return True
        elif not (pending.is_started or self._bench):
            self._start_evaluation(pending, pending.command)
        if not pending.is_started and self._is_busy:
            pending.deadline = max(pending.deadline, time.monotonic() + _POLICY_WAIT_S)  # it has not had its turn
        if time.monotonic() < pending.deadline:
            return False
        self._fail(pending.header, self._give_up(pending))
        return True

    @property
    def _is_busy(self) -> bool:
        """An evaluation or a bench is under way; the next waits, so that each has the board to itself."""
        return any(pending.is_started for pending in self._pending)

    def _give_up(self, pending: _Pending) -> str:
        """Stop what took too long; returns what it was that did."""
        if not isinstance(pending.command, Bench):
            newest = self._shelf.newest
            return f"not done in time; this board holds policy {newest.version if newest else 0}"
        if pending.is_started:
            self._end_bench()
            return f"the policy was not measured in {_BENCH_LIMIT_S:.0f} s: ask for fewer steps"
        return f"this board did not come to rest in {_REST_WAIT_S:.0f} s, and measured nothing"

    def _start_evaluation(self, pending: _Pending, command: Evaluate) -> None:
        policy = self._shelf.newest
        if policy is None or command.policy_version not in (0, policy.version):
            return  # it may be on its way
        pending.is_started = self._workforce.evaluate(
            EvaluatePolicy(
                counter=pending.header.version,
                version=policy.version,
                model=policy.model,
                episodes=command.episodes,
                seed=command.seed,
            )
        )
        if pending.is_started:
            pending.deadline = time.monotonic() + _EVALUATION_LIMIT_S

    def _measure(self, pending: _Pending, command: Bench) -> bool:
        """Measure a policy in a process of its own, one at a time; True when that is answered."""
        if not pending.is_started:
            if not self._is_busy and self._workforce.is_at_rest:
                self._bench = ChildProcess("edge_actor.bench", FromBench)
                pending.is_started, pending.deadline = True, time.monotonic() + _BENCH_LIMIT_S
            return False
        assert self._bench is not None  # noqa: S101 - it was started for this command
        if not self._bench.pipe.poll():
            return False
        try:
            said = self._bench.receive()
            if isinstance(said, BenchReady):
                self._bench.send(command)
                return False
            self._send(pending.header, said.result, said.problem)
        except (EOFError, BadMessage):
            sentence = f"the policy has ended the process that measured it (status {self._end_bench()})"
            self._fail(pending.header, sentence, code=ExitCode.USAGE)
        self._end_bench()
        return True

    def _end_bench(self) -> int:
        bench, self._bench = self._bench, None
        return bench.end(wait_s=0.0) if bench is not None else 0

    def _take_results(self) -> None:
        results, self._workforce.evaluated = self._workforce.evaluated, []
        for result in results:
            for pending in [p for p in self._pending if p.is_started and p.header.version == result.counter]:
                self._pending.remove(pending)
                self._send(pending.header, result.result, result.problem)

    def _fail(self, header: FrameHeader, sentence: str, *, code: ExitCode = ExitCode.COMMAND_FAILED) -> None:
        self._send(header, problem=Problem(code=code, sentence=sentence))

    def _send(
        self,
        header: FrameHeader,
        result: EvaluationResult | AtRest | BenchResult | None = None,
        problem: Problem | None = None,
    ) -> None:
        self._reply(
            CommandReply(
                board_id=self._board_id,
                boot_id=self._boot_id,
                issuer=header.issuer,
                counter=header.version,
                result=result,
                problem=problem,
            )
        )
