"""One worker process: environments, an interpreter, and nothing else that wants its interpreter lock.

A reader thread takes what the supervisor says and leaves it in a mailbox; the main thread looks there between two
steps. When the pipe ends, the supervisor is gone, and so is the worker.
"""

import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

import numpy as np

from edge_actor.environments import Environment, action_spec, make_environment, observation_spec
from edge_actor.policy import Policy, interpreter_class
from edge_actor.policy_file import BadPolicyFile
from edge_actor.rollout import Rollout, Timings, play_greedy_episodes
from edge_actor.sampling import Sampler, make_sampler
from edge_actor.worker_messages import (
    Credit,
    Evaluated,
    EvaluatePolicy,
    Failed,
    FromWorker,
    Halt,
    Halted,
    LoadPolicy,
    PolicyAnswer,
    Ready,
    StartRun,
    ToWorker,
    WindowDone,
)
from fleet_protocol.codec import decode, encode
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import EvaluationResult, Problem
from fleet_protocol.sketch import LatencySketch
from fleet_protocol.trajectory import pack_trajectory


class Worker:
    """Plays one run until the supervisor is gone."""

    def __init__(self, pipe: Connection, start: StartRun) -> None:
        self._pipe = pipe
        self._send_lock = threading.Lock()
        self._start = start
        self._environments = self._make_environments()
        self.observation_space = observation_spec(self._environments[0].observation_space)
        self.action_space = action_spec(self._environments[0].action_space)
        self._rng = np.random.default_rng(start.seed or None)
        self._sketches: dict[str, LatencySketch] = {}
        self._mailbox = threading.Condition()
        self._policy: Policy | None = None
        self._next_policy: tuple[Policy, int] | None = None
        self._credit = 0
        self._halted = False
        self._evaluation: EvaluatePolicy | None = None
        self._attention = False

    def run(self) -> None:
        """Play windows for ever, as far as policy and credit allow."""
        _, runtime = interpreter_class()
        self._send(Ready(observation_space=self.observation_space, action_space=self.action_space, runtime=runtime))
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        first = self._wait_for_policy(began=0)
        rollout = Rollout(
            self._environments,
            unroll_length=self._start.run.unroll_length,
            observation_size=self.observation_space.shape[0],
            sampler=self._make_sampler(first, self._start.run.unroll_length),
            seed=int(self._rng.integers(2**31)) if self._start.seed else None,
        )
        began = 0
        while True:
            self._wait_for_policy(began=began)
            began += 1
            trajectory, timings = rollout.fill_window(self._newest_policy)
            started = time.perf_counter_ns()
            body = pack_trajectory(trajectory)
            self._note("encode_us", (time.perf_counter_ns() - started) / 1e3)
            self._send_window(body, timings)

    # --- main thread, between two steps -----------------------------------------------------------------------------

    def _newest_policy(self) -> Policy:
        if self._attention:
            self._attend()
        assert self._policy is not None  # noqa: S101 - a window begins only with a policy
        return self._policy

    def _wait_for_policy(self, *, began: int) -> Policy:
        while True:
            if self._attention:
                self._attend()
            with self._mailbox:
                if self._policy is not None and self._credit > began and not self._attention:
                    return self._policy
                if not self._attention:
                    self._mailbox.wait()

    def _attend(self) -> None:
        """Do what the mailbox asks for: evaluate, swap, or hold still until told to go on."""
        with self._mailbox:
            evaluation, self._evaluation = self._evaluation, None
            arrived, self._next_policy = self._next_policy, None
            self._attention = halted = self._halted
        if evaluation is not None:
            self._send(self._evaluate(evaluation))
        if arrived is not None:
            self._swap(*arrived)
        if halted:
            self._send(Halted())
            with self._mailbox:
                self._mailbox.wait_for(lambda: not self._halted or self._evaluation is not None)
                self._attention = True

    def _swap(self, policy: Policy, issued_monotonic_ns: int) -> None:
        started = time.perf_counter_ns()
        self._policy = policy
        self._note("swap_us", (time.perf_counter_ns() - started) / 1e3)
        if issued_monotonic_ns:
            self._note("publish_to_act_ms", max(0, time.monotonic_ns() - issued_monotonic_ns) / 1e6)

    def _evaluate(self, command: EvaluatePolicy) -> Evaluated:
        try:
            policy = Policy(command.model, copies=len(self._environments))
            policy.warm_up()
            environments = self._make_environments()
            returns, lengths = play_greedy_episodes(
                environments, policy, self._make_sampler(policy, 1), episodes=command.episodes, seed=command.seed
            )
            _close(environments)
        except BadPolicyFile as error:
            return Evaluated(counter=command.counter, problem=Problem(code=ExitCode.BUG, sentence=str(error)))
        except ProgramError as error:
            return Evaluated(counter=command.counter, problem=_problem(error))
        result = EvaluationResult(policy_version=command.version, returns=returns, lengths=lengths)
        return Evaluated(counter=command.counter, result=result)

    # --- reader thread ----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        while True:
            try:
                message = decode(self._pipe.recv_bytes(), ToWorker)
            except (EOFError, OSError):
                os._exit(0)  # the supervisor is gone, and the main thread may hang in an environment
            self._take(message)

    def _take(self, message: ToWorker) -> None:
        loaded = self._load(message) if isinstance(message, LoadPolicy) else None
        with self._mailbox:
            match message:
                case LoadPolicy() if loaded is not None:
                    self._next_policy = (loaded, message.issued_monotonic_ns)
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
            policy = Policy(message.model, copies=len(self._environments))
            if policy.metadata.policy_version != message.version:
                raise BadPolicyFile(f"the file calls itself version {policy.metadata.policy_version}")  # noqa: TRY301
            self._require_same_spaces(policy)
            policy.warm_up()
        except BadPolicyFile as error:
            problem = Problem(code=ExitCode.BUG, sentence=str(error))
            self._send(PolicyAnswer(version=message.version, problem=problem))
            return None
        except ProgramError as error:
            self._send(PolicyAnswer(version=message.version, problem=_problem(error)))
            return None
        self._note("policy_load_ms", (time.perf_counter_ns() - started) / 1e6)
        self._send(PolicyAnswer(version=message.version))
        return policy

    def _require_same_spaces(self, policy: Policy) -> None:
        made_for = (policy.metadata.observation, policy.metadata.action)
        if made_for != (self.observation_space, self.action_space):
            raise ProgramError(
                ExitCode.SPACES_DIFFER,
                f"the run's policies are made for {made_for[0]} and {made_for[1]}, and this board's "
                f"{self._start.run.env_id} has {self.observation_space} and {self.action_space}; "
                "install the same environment, in the same version, on all boards",
            )

    # --- both -------------------------------------------------------------------------------------------------------

    def _make_environments(self) -> list[Environment]:
        run = self._start.run
        return [
            make_environment(run.env_id, dict(run.env_kwargs), allowed=self._start.allowed_environments)
            for _ in range(self._start.copies)
        ]

    def _make_sampler(self, policy: Policy, unroll_length: int) -> Sampler:
        return make_sampler(
            self.action_space,
            unroll_length=unroll_length,
            copies=len(self._environments),
            wire_scale=policy.metadata.wire_scale,
            rng=self._rng,
        )

    def _note(self, name: str, value: float) -> None:
        with self._send_lock:
            self._sketches.setdefault(name, LatencySketch()).add(value)

    def _send_window(self, body: bytes, timings: Timings) -> None:
        with self._send_lock:
            for name, values in (
                ("inference_us", timings.inference),
                ("env_step_us", timings.environment),
                ("step_us", timings.step),
            ):
                self._sketches.setdefault(name, LatencySketch()).add_many(values / 1e3)
            sketches = {name: sketch.to_state() for name, sketch in self._sketches.items()}
            self._sketches = {}
        run = self._start.run
        self._send(WindowDone(body=body, env_steps=run.unroll_length * len(self._environments), sketches=sketches))

    def _send(self, message: FromWorker) -> None:
        try:
            with self._send_lock:
                self._pipe.send_bytes(encode(message))
        except OSError:
            os._exit(0)  # the supervisor is gone, and whichever thread noticed, the other may hang


def _close(environments: list[Environment]) -> None:
    for environment in environments:
        environment.close()


def _problem(error: ProgramError) -> Problem:
    return Problem(code=error.exit_code, sentence=str(error))


def main() -> int:
    """Serve the supervisor on the other end of the pipe whose file descriptor is the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
    pipe = Connection(int(sys.argv[1]))
    start = decode(pipe.recv_bytes(), StartRun)
    try:
        Worker(pipe, start).run()
    except ProgramError as error:
        pipe.send_bytes(encode(Failed(problem=_problem(error))))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
