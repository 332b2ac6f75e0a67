"""The supervisor's end of a checker."""

import time

from edge_actor.checker_messages import FromChecker
from edge_actor.child_process import ChildProcess


class CheckerProcess(ChildProcess[FromChecker]):
    """A checker and its pipe.

    Attributes:
        is_ready: It has loaded what it needs.
        started_at: By the monotonic clock.
    """

    def __init__(self) -> None:
        super().__init__("edge_actor.checker", FromChecker)
        self.is_ready = False
        self.started_at = time.monotonic()
