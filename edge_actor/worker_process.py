"""The supervisor's end of a worker: start it, grant it windows, notice when its environment hangs."""

from edge_actor.child_process import ChildProcess
from edge_actor.step_clock import StepClock
from edge_actor.worker_messages import Credit, FromWorker, StartRun


class WorkerProcess(ChildProcess[FromWorker]):
    """One worker and its pipe. What it sends has the fleet's types; what it is sent, too.

    Attributes:
        index: Its place on the board, from 0.
        serial: Its own number, which no other process of this agent ever gets.
        finished: Windows of it that were acked or dropped.
        is_ready: Its environments are made.
        is_halted: It has said that it takes no step.
        policy_version: What it has loaded, 0 for nothing.
    """

    def __init__(self, index: int, serial: int, start: StartRun) -> None:
        self._clock = StepClock.make()
        super().__init__("edge_actor.worker", FromWorker, self._clock.fd)
        self.index = index
        self.serial = serial
        self.finished = 0
        self.is_ready = False
        self.is_halted = False
        self.policy_version = 0
        self._granted = 0
        self.send(start)

    def grant(self, max_in_flight: int) -> None:
        """Let it begin as many windows as may be unacked; 0 lets it run free."""
        windows = self.finished + max_in_flight if max_in_flight else 2**31
        if windows > self._granted:
            self._granted = windows
            self.send(Credit(windows=windows))

    def busy_s(self) -> float:
        """For how many seconds its environment has not returned."""
        return self._clock.busy_s()

    def end(self, **wait: float) -> int:
        """End the process and return its exit status; it may close its environment meanwhile."""
        try:
            return super().end(**wait)
        finally:
            self._clock.close()
