"""The board's workers together: started for a run, given policies and credit, and replaced when they die."""

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final

from edge_actor.config import BoardSettings
from edge_actor.policy_shelf import HeldPolicy, PolicyShelf
from edge_actor.worker_messages import (
    Evaluated,
    EvaluatePolicy,
    Failed,
    FromWorker,
    Halt,
    Halted,
    LoadPolicy,
    PolicyAnswer,
    PolicyVerdict,
    Ready,
    StartRun,
    WindowDone,
)
from edge_actor.worker_process import WorkerProcess
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.messages import Problem, RunSpec

ENDED_WITH_THE_AGENT: Final = frozenset({-signal.SIGTERM, -signal.SIGINT})
"""Somebody stops the whole agent, and the policy has no part in it."""
_RESTART_FIRST_S: Final = 0.5
_RESTART_LIMIT_S: Final = 30.0
_NOT_WORTH_RETRYING: Final = frozenset(
    {
        ExitCode.ENVIRONMENT_UNKNOWN,
        ExitCode.ENVIRONMENT_REFUSED,
        ExitCode.SPACE_UNSUPPORTED,
        ExitCode.DEPENDENCY_MISSING,
    }
)


class Workforce:
    """All workers of a board.

    Args:
        settings: What the board's owner decided.
        shelf: Which policy to run; told which ones prove themselves and which kill a worker.
        take_window: Takes a worker's serial number and its finished window.
        warn: Takes a sentence for people.

    Attributes:
        ready: What the first worker to make the run's environment said of it.
        problem: Why the board does not act, if it does not.
        evaluated: Answers to evaluations, to be taken away by whoever asked.
        counters: What happened, by name.
    """

    def __init__(
        self,
        settings: BoardSettings,
        *,
        shelf: PolicyShelf,
        take_window: Callable[[int, WindowDone], None],
        warn: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._shelf = shelf
        self._take_window = take_window
        self._warn = warn
        self._run: RunSpec | None = None
        self._workers: dict[int, WorkerProcess] = {}
        self._unproved: dict[int, HeldPolicy] = {}
        self._restart_at: dict[int, float] = {}
        self._failures: Counter[int] = Counter()
        self._serials = itertools.count()
        self._halted = False
        self.copies = 0
        self.ready: Ready | None = None
        self.problem: Problem | None = None
        self.evaluated: list[Evaluated] = []
        self.counters: Counter[str] = Counter()

    def start_run(self, run: RunSpec) -> None:
        """End the workers of the run before, and start those of this one."""
        self.end()
        self._run = run
        self._halted = False
        self.ready = None
        self.problem = None
        self._failures.clear()
        self._restart_at.clear()
        # A clock is kept for one environment; a second copy could only make it late.
        self.copies = 1 if run.control_hz else self._settings.copies or run.copies
        for index in range(self._settings.workers):
            self._start_worker(index)

    def pipes(self) -> list[Connection]:
        """What to wait on."""
        return [worker.pipe for worker in self._workers.values()]

    def pids(self) -> list[int]:
        """Processes of the agent: this one and the workers."""
        return [os.getpid(), *(worker.pid for worker in self._workers.values())]

    @property
    def is_at_rest(self) -> bool:
        """No worker takes a step."""
        return self._halted and all(worker.is_halted or not worker.is_ready for worker in self._workers.values())

    def receive(self) -> None:
        """Take all that the workers have sent, and replace the dead whose time has come."""
        for worker in list(self._workers.values()):
            try:
                while worker.pipe.poll():
                    self._take(worker, worker.receive())
            except EOFError:
                self._bury(worker, worker.end())
                continue
            if worker.busy_s() > self._settings.step_timeout_s:
                self._end_hanging(worker)
        for index in [i for i, due in self._restart_at.items() if due <= time.monotonic()]:
            del self._restart_at[index]
            self._start_worker(index)

    def load_newest(self) -> None:
        """Give every worker the newest policy."""
        for worker in self._workers.values():
            self._load(worker)

    def window_left(self, serial: int) -> None:
        """A window of a worker is acked or dropped: if that worker still lives, it may begin another one."""
        worker = next((w for w in self._workers.values() if w.serial == serial), None)
        if worker is not None and self._run is not None:
            worker.finished += 1
            worker.grant(self._run.max_in_flight)

    def halt(self, *, halted: bool) -> None:
        """Have all workers stop between two steps, or go on."""
        if halted == self._halted:
            return  # asked again: a worker that holds still does not say so twice
        self._halted = halted
        for worker in self._workers.values():
            worker.is_halted = False
            worker.send(Halt(halted=halted))

    def evaluate(self, command: EvaluatePolicy) -> bool:
        """Have a worker play greedy episodes; False when none is there."""
        worker = next((w for w in self._workers.values() if w.is_ready), None)
        if worker is not None:
            worker.send(command)
        return worker is not None

    def end(self) -> None:
        """End all workers."""
        for worker in self._workers.values():
            worker.pipe.close()
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()
        self._unproved.clear()

    def _start_worker(self, index: int) -> None:
        assert self._run is not None  # noqa: S101 - workers exist only within a run
        seed = self._settings.seed + index if self._settings.seed else 0
        start = StartRun(
            run=self._run,
            copies=self.copies,
            seed=seed,
            allowed_environments=self._settings.allowed_environments,
        )
        worker = self._workers[index] = WorkerProcess(index, next(self._serials), start)
        worker.grant(self._run.max_in_flight)
        if self._halted:
            worker.send(Halt(halted=True))

    def _load(self, worker: WorkerProcess) -> None:
        policy = self._shelf.newest
        if policy is None or not worker.is_ready:
            return
        is_good = self._shelf.is_proved(policy)
        self._unproved.pop(worker.index, None)
        if not is_good:
            self._unproved[worker.index] = policy
        # A policy that comes back was published long ago: that says nothing of how fast policies come.
        issued_ns = 0 if is_good else policy.issued_monotonic_ns
        worker.send(
            LoadPolicy(version=policy.version, model=policy.model, issued_monotonic_ns=issued_ns, is_good=is_good)
        )

    def _take(self, worker: WorkerProcess, message: FromWorker) -> None:
        match message:
            case Ready():
                worker.is_ready = True
                self.ready = self.ready or message
                self.problem = None
                self._load(worker)
            case WindowDone():
                self._failures[worker.index] = 0
                self.counters.update(message.counters)
                for sentence in message.warnings:
                    self._warn(sentence)
                self._take_window(worker.serial, message)
            case PolicyAnswer() | PolicyVerdict():
                self._take_word_of_policy(worker, message)
            case Halted():
                worker.is_halted = True
            case Evaluated():
                self.evaluated.append(message)
            case Failed():
                self.problem = message.problem
                self._unproved.pop(worker.index, None)  # it said why, so the policy is no suspect
                self._warn(message.problem.sentence)

    def _take_word_of_policy(self, worker: WorkerProcess, word: PolicyAnswer | PolicyVerdict) -> None:
        if isinstance(word, PolicyAnswer):
            self._take_answer(worker, word)
        else:
            self._take_verdict(worker, word)

    def _take_verdict(self, worker: WorkerProcess, verdict: PolicyVerdict) -> None:
        policy = self._unproved.get(worker.index)
        if policy is not None and policy.version == verdict.version:
            del self._unproved[worker.index]
        if not verdict.reason:
            if policy is not None and policy.version == verdict.version:
                self._shelf.prove(policy)
            return
        failed = self._shelf.find(verdict.version)
        if failed is not None:  # and not what another worker has said before
            self.counters["policies_rolled_back"] += 1
            self.counters[f"probation_{verdict.reason}"] += 1
            self._warn(f"policy {verdict.version} failed while it acted ({verdict.reason}): {verdict.sentence}")
            self._shelf.quarantine(failed)
            self.load_newest()

    def _take_answer(self, worker: WorkerProcess, answer: PolicyAnswer) -> None:
        if answer.problem is None:
            worker.policy_version = answer.version
            return
        self._warn(f"policy {answer.version}: {answer.problem.sentence}")
        policy = self._unproved.pop(worker.index, None)
        if answer.problem.code == ExitCode.SPACES_DIFFER:
            self.problem = answer.problem
        elif policy is not None and policy.version == answer.version:
            self.counters["policies_refused"] += 1
            self._shelf.quarantine(policy)

    def _end_hanging(self, worker: WorkerProcess) -> None:
        self.counters["environment_hangs"] += 1
        self._unproved.pop(worker.index, None)  # the environment hangs, and the policy is no suspect
        self._warn(
            f"the environment of worker {worker.index} has not returned for {self._settings.step_timeout_s:g} s "
            "(step_timeout_s)"
        )
        self._bury(worker, worker.end(wait_s=0.0))

    def _bury(self, worker: WorkerProcess, status: int) -> None:
        del self._workers[worker.index]
        suspect = self._unproved.pop(worker.index, None)
        if self.problem is not None and self.problem.code in _NOT_WORTH_RETRYING:
            return  # nothing here changes until the run or the board's owner does
        self.counters["worker_restarts"] += 1
        if suspect is not None and worker.is_ready and status not in ENDED_WITH_THE_AGENT:
            self.counters["policies_quarantined"] += 1
            self._shelf.quarantine(suspect)
            self._warn(f"worker {worker.index} died (status {status}) with the unproved policy {suspect.version}")
        else:
            self._warn(f"worker {worker.index} died (status {status}); starting another one")
        failures = self._failures[worker.index]
        self._failures[worker.index] += 1
        self._restart_at[worker.index] = time.monotonic() + (
            min(_RESTART_LIMIT_S, _RESTART_FIRST_S * 2.0**failures) if failures else 0.0
        )
