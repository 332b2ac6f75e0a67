"""The questions to the checker: one policy at a time is with it, and the newest of the others waits (D7)."""

import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final

from edge_actor.checker_messages import CheckerReady, CheckPolicy, FromChecker, PolicyChecked
from edge_actor.checker_process import CheckerProcess
from edge_actor.policy_shelf import HeldPolicy
from edge_actor.workforce import ENDED_WITH_THE_AGENT
from fleet_protocol.messages import RunSpec
from fleet_protocol.signing import FrameRefused

_CHECK_LIMIT_S: Final = 20.0
"""Of the clock, for one policy: the kernel ends a checker that computes for ever sooner, we end one that sleeps."""
_START_LIMIT_S: Final = 120.0
_RESTART_FIRST_S: Final = 0.5
_RESTART_LIMIT_S: Final = 30.0


class PolicyChecker:
    """Asks the checker about policies, and keeps one running.

    A policy that it dies of, or does not come to an end with, is refused like any that it says no to.

    Args:
        admit: Takes a policy that workers may have.
        refuse: Takes one that nobody here ever may.
        count: Takes a counter's name and a sentence.
    """

    def __init__(
        self,
        *,
        admit: Callable[[HeldPolicy], None],
        refuse: Callable[[HeldPolicy], None],
        count: Callable[[str, str], None],
    ) -> None:
        self._admit = admit
        self._refuse = refuse
        self._count = count
        self._run: RunSpec | None = None
        self._copies = 1
        self._good_us = 0.0
        self._process: CheckerProcess | None = None
        self._start_at = 0.0
        self._deaths_in_a_row = 0
        self._serial = self._asked = 0
        self._checking: HeldPolicy | None = None
        self._deadline = 0.0
        self._waiting: HeldPolicy | None = None

    def begin_run(self, run: RunSpec, *, copies: int) -> None:
        """Forget the policies of the run before."""
        self._run, self._copies = run, copies
        self._good_us = 0.0
        self._waiting = None
        self._serial += 1  # what will be said of the one that is being checked concerns nobody

    def offer(self, policy: HeldPolicy) -> None:
        """Have a policy of the run checked, as soon as the one before it is.

        Raises:
            FrameRefused: A newer one is on its way already.
        """
        if _is_same(policy, self._waiting):
            self._waiting = policy  # retained, and sent again; perhaps under another key
            return
        if self._is_answer_wanted and _is_same(policy, self._checking):
            self._checking = policy
            return
        for other in (self._waiting, self._checking if self._is_answer_wanted else None):
            if other is not None and policy.version <= other.version:
                raise FrameRefused("not_newer", f"policy {policy.version} is not newer than {other.version}")
        if self._waiting is not None:
            self._count("policies_skipped", f"policy {self._waiting.version} was not tried: a newer one came first")
        self._waiting = policy
        self._send_next()

    @property
    def _is_answer_wanted(self) -> bool:
        """Whether what is being checked is of this run."""
        return self._asked == self._serial

    def pipes(self) -> list[Connection]:
        """What to wait on."""
        return [self._process.pipe] if self._process is not None else []

    def pids(self) -> list[int]:
        """The checker's process, if there is one."""
        return [self._process.pid] if self._process is not None else []

    def serve(self) -> None:
        """Take the checker's answers; end it when it hangs, and start it when it is not there."""
        if self._process is None:
            if time.monotonic() >= self._start_at:
                self._process = CheckerProcess()
                self._deadline = time.monotonic() + _START_LIMIT_S
            return
        try:
            while self._process.pipe.poll():
                self._take(self._process, self._process.receive())
        except EOFError:
            self._bury(self._process, hangs=False)
            return
        is_busy = self._checking is not None or not self._process.is_ready
        if is_busy and time.monotonic() >= self._deadline:
            self._bury(self._process, hangs=True)

    def end(self) -> None:
        """End the checker."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _take(self, process: CheckerProcess, message: FromChecker) -> None:
        match message:
            case CheckerReady():
                process.is_ready = True
            case PolicyChecked():
                policy, self._checking = self._checking, None
                self._deaths_in_a_row = 0
                if policy is not None and message.serial == self._serial:
                    self._decide(policy, message)
        self._send_next()

    def _decide(self, policy: HeldPolicy, answer: PolicyChecked) -> None:
        if answer.reason:
            self._say_no(policy, answer.reason, answer.sentence)
        else:
            self._good_us = answer.inference_us
            self._admit(policy)

    def _say_no(self, policy: HeldPolicy, reason: str, sentence: str) -> None:
        self._count("policies_refused", f"policy {policy.version} is refused ({reason}): {sentence}")
        self._count(f"check_{reason}", f"policy {policy.version}: {sentence}")
        self._refuse(policy)

    def _send_next(self) -> None:
        if self._waiting is None or self._checking is not None or self._run is None:
            return
        if self._process is None or not self._process.is_ready:
            return
        self._checking, self._waiting = self._waiting, None
        self._serial += 1
        self._asked = self._serial
        self._deadline = time.monotonic() + _CHECK_LIMIT_S
        self._process.send(
            CheckPolicy(
                serial=self._asked,
                version=self._checking.version,
                run=self._run,
                copies=self._copies,
                model=self._checking.model,
                good_us=self._good_us,
            )
        )

    def _bury(self, process: CheckerProcess, *, hangs: bool) -> None:
        status = process.end(wait_s=0.0) if hangs else process.end()
        suspect, self._process, self._checking = self._checking, None, None
        self._count("checker_restarts", f"the checker of policies has ended (status {status}); starting another one")
        delay_s = min(_RESTART_LIMIT_S, _RESTART_FIRST_S * 2.0**self._deaths_in_a_row) if self._deaths_in_a_row else 0.0
        self._start_at = time.monotonic() + delay_s
        self._deaths_in_a_row += 1
        if suspect is None or (status in ENDED_WITH_THE_AGENT and not hangs):
            self._waiting = self._waiting or suspect
        elif hangs or status == -signal.SIGXCPU:
            self._say_no(suspect, "hang", "the checker did not come to an end with it")
        else:
            self._say_no(suspect, "crash", f"the checker died of it (status {status})")


def _is_same(policy: HeldPolicy, other: HeldPolicy | None) -> bool:
    return other is not None and (policy.version, policy.header.sha256) == (other.version, other.header.sha256)
