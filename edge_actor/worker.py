"""One worker process: environments, an interpreter, and nothing else that wants its interpreter lock.

A reader thread takes what the supervisor says and leaves it in a mailbox; the main thread looks there between two
steps. When the pipe ends, the supervisor is gone, and so is the worker.
"""

import gc
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Final, NoReturn

import numpy as np

from edge_actor.environment_copy import EnvironmentCopy
from edge_actor.environments import Environment, make_environment
from edge_actor.evaluator import evaluate
from edge_actor.pacer import Pacer
from edge_actor.policy import Policy, interpreter_class
from edge_actor.policy_file import BadPolicyFile
from edge_actor.policy_seat import PolicySeat
from edge_actor.rollout import Rollout
from edge_actor.sampling import Sampler, UnusableOutputs, as_action, make_sampler
from edge_actor.step_clock import StepClock
from edge_actor.worker_messages import (
    Credit,
    EvaluatePolicy,
    Failed,
    Halt,
    Halted,
    LoadPolicy,
    PolicyAnswer,
    PolicyVerdict,
    Ready,
    StartRun,
    ToWorker,
)
from edge_actor.worker_voice import WorkerVoice
from fleet_protocol.codec import decode, encode
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import Problem
from fleet_protocol.trajectory import pack_trajectory

_PROMPT_SWITCH_S: Final = 1e-5
"""Shorter than a step: an inference gives the interpreter lock away for a moment too short to catch, after which a
thread's patience begins anew; with Python's 5 ms the reader waited for the end of the window."""
_CLOSE_WAIT_S: Final = 0.7
"""Less than the supervisor waits for its workers to end."""


class _SupervisorGone(Exception):
    """Nobody is at the other end of the pipe any more."""


class Worker:
    """Plays one run until the supervisor is gone.

    Args:
        pipe: To the supervisor.
        start: What to play.
        clock: Tells the supervisor since when the environment has not returned.
    """

    def __init__(self, pipe: Connection, start: StartRun, clock: StepClock) -> None:
        self._pipe = pipe
        self._voice = WorkerVoice(pipe)
        self._start = start
        self._clock = clock
        self._copies = self._make_copies()
        self.observation_space = self._copies[0].observation_space
        self.action_space = self._copies[0].action_space
        self._rng = np.random.default_rng(start.seed or None)
        self._mailbox = threading.Condition()
        self._seat = PolicySeat(start.run)
        self._next_policy: tuple[Policy, LoadPolicy] | None = None
        self._rollout: Rollout | None = None
        self._credit = 0
        self._halted = False
        self._ended = False
        self._evaluation: EvaluatePolicy | None = None
        self._attention = False

    def run(self) -> None:
        """Play windows for ever, as far as policy and credit allow."""
        _, runtime = interpreter_class()
        self._voice.send(
            Ready(observation_space=self.observation_space, action_space=self.action_space, runtime=runtime)
        )
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        try:
            first = self._wait_for_policy(began=0)
            rollout = self._rollout = self._make_rollout(first)
            began = 0
            while True:
                self._wait_for_policy(began=began)
                try:
                    trajectory, timings = rollout.fill_window(self._newest_policy)
                except UnusableOutputs as error:
                    self._unseat(rollout, error)
                    continue
                began += 1
                started = time.perf_counter_ns()
                body = pack_trajectory(trajectory)
                self._voice.note("encode_us", (time.perf_counter_ns() - started) / 1e3)
                self._voice.send_window(
                    body, timings, rollout, env_steps=len(self._copies) * self._start.run.unroll_length
                )
                self._give_verdict(self._seat.watch(trajectory, timings))
        except _SupervisorGone:
            return
        finally:
            _close(self._copies)

    def _make_rollout(self, policy: Policy) -> Rollout:
        run = self._start.run
        # A policy that loads must not hold up a tick, nor be held up by steps until the window ends.
        sys.setswitchinterval(_PROMPT_SWITCH_S)
        gc.freeze()  # what is there now stays; the collector need not look at it again
        return Rollout(
            self._copies,
            unroll_length=run.unroll_length,
            frame_stack=run.frame_stack,
            sampler=self._make_sampler(policy, run.unroll_length),
            seed=int(self._rng.integers(2**31)) if self._start.seed else None,
            pacer=Pacer(run.control_hz) if run.control_hz else None,
            clock=self._clock,
            safe_action=as_action(run.safe_action, self.action_space) if run.safe_action else None,
        )

    # --- main thread, between two steps -----------------------------------------------------------------------------

    def _newest_policy(self) -> Policy:
        if self._attention:
            self._attend()
        assert self._seat.policy is not None  # noqa: S101 - a window begins only with a policy
        return self._seat.policy

    def _wait_for_policy(self, *, began: int) -> Policy:
        while True:
            if self._attention:
                self._attend()
            with self._mailbox:
                if self._seat.policy is not None and self._credit > began and not self._attention:
                    return self._seat.policy
                if not self._attention:
                    self._mailbox.wait()

    def _attend(self) -> None:
        """Do what the mailbox asks for: evaluate, swap, or hold still until told to go on."""
        if self._ended:
            raise _SupervisorGone
        with self._mailbox:
            evaluation, self._evaluation = self._evaluation, None
            arrived, self._next_policy = self._next_policy, None
            self._attention = halted = self._halted
        if evaluation is not None:
            self._voice.send(
                evaluate(
                    evaluation,
                    self._start,
                    make_copies=self._make_copies,
                    make_sampler=self._make_sampler,
                    clock=self._clock,
                )
            )
        if arrived is not None:
            self._swap(*arrived)
        if halted:
            if self._rollout is not None:
                self._rollout.come_to_rest()
            self._voice.send(Halted())
            with self._mailbox:
                self._mailbox.wait_for(lambda: not self._halted or self._ended or self._evaluation is not None)
                self._attention = True

    def _swap(self, policy: Policy, message: LoadPolicy) -> None:
        started = time.perf_counter_ns()
        self._seat.take(policy, is_good=message.is_good)
        self._voice.note("swap_us", (time.perf_counter_ns() - started) / 1e3)
        if message.issued_monotonic_ns:
            self._voice.note("publish_to_act_ms", max(0, time.monotonic_ns() - message.issued_monotonic_ns) / 1e6)

    def _unseat(self, rollout: Rollout, error: UnusableOutputs) -> None:
        """Go on with the last good policy; without one, with the safe action until another comes."""
        self._give_verdict(self._seat.fail(rollout.abandon_window(), "nan", str(error)))
        if self._seat.policy is None:
            rollout.come_to_rest()

    def _give_verdict(self, verdict: PolicyVerdict | None) -> None:
        if verdict is not None:
            self._voice.send(verdict)

    # --- reader thread ----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        while True:
            try:
                message = decode(self._pipe.recv_bytes(), ToWorker)
            except (EOFError, OSError):
                self._end()
            self._take(message)

    def _end(self) -> NoReturn:
        """The supervisor is gone: let the main thread close the environment, but not wait for it if it hangs."""
        with self._mailbox:
            self._ended = self._attention = True
            self._mailbox.notify_all()
        time.sleep(_CLOSE_WAIT_S)
        os._exit(0)

    def _take(self, message: ToWorker) -> None:
        loaded = self._load(message) if isinstance(message, LoadPolicy) else None
        with self._mailbox:
            match message:
                case LoadPolicy() if loaded is not None:
                    self._next_policy = (loaded, message)
                    self._attention = True
                case Credit():
                    self._credit = message.windows
                case Halt():
                    self._halted = message.halted
                    self._attention = True
                case EvaluatePolicy():
                    self._evaluation = message
                    self._attention = True
                case _:
                    return
            self._mailbox.notify_all()

    def _load(self, message: LoadPolicy) -> Policy | None:
        started = time.perf_counter_ns()
        try:
            policy = Policy(message.model, copies=len(self._copies))
            if policy.metadata.policy_version != message.version:
                raise BadPolicyFile(f"the file calls itself version {policy.metadata.policy_version}")  # noqa: TRY301
            policy.require_made_for(self._start.run, self.observation_space, self.action_space)
            policy.warm_up()
        except BadPolicyFile as error:
            problem = Problem(code=ExitCode.BUG, sentence=str(error))
            self._voice.send(PolicyAnswer(version=message.version, problem=problem))
            return None
        except ProgramError as error:
            self._voice.send(PolicyAnswer(version=message.version, problem=_problem(error)))
            return None
        self._voice.note("policy_load_ms", (time.perf_counter_ns() - started) / 1e6)
        self._voice.send(PolicyAnswer(version=message.version))
        return policy

    # --- both -------------------------------------------------------------------------------------------------------

    def _make_copies(self) -> list[EnvironmentCopy]:
        run = self._start.run

        def make() -> Environment:
            return make_environment(run.env_id, dict(run.env_kwargs), allowed=self._start.allowed_environments)

        with self._clock:
            return [EnvironmentCopy(make) for _ in range(self._start.copies)]

    def _make_sampler(self, policy: Policy, unroll_length: int) -> Sampler:
        return make_sampler(
            self.action_space,
            unroll_length=unroll_length,
            copies=len(self._copies),
            wire_scale=policy.metadata.wire_scale,
            rng=self._rng,
        )


def _close(copies: list[EnvironmentCopy]) -> None:
    for copy in copies:
        copy.close()


def _problem(error: ProgramError) -> Problem:
    return Problem(code=error.exit_code, sentence=str(error))


def main() -> int:
    """Serve the supervisor: the arguments are file descriptors, of a pipe to it and of the step clock's memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
    pipe = Connection(int(sys.argv[1]))
    start = decode(pipe.recv_bytes(), StartRun)
    try:
        Worker(pipe, start, StepClock(int(sys.argv[2]))).run()
    except ProgramError as error:
        pipe.send_bytes(encode(Failed(problem=_problem(error))))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
