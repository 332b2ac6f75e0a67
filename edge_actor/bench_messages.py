"""What the bench says to its supervisor, encoded by the fleet's codec; it is asked with the command itself."""

from fleet_protocol.commands import BenchResult
from fleet_protocol.messages import Message, Problem


class BenchReady(Message, frozen=True, kw_only=True, tag="ready"):
    """It has loaded what it needs, and reads."""


class Benched(Message, frozen=True, kw_only=True, tag="benched"):
    """The answer: a result, or why there is none."""

    result: BenchResult | None = None
    problem: Problem | None = None


FromBench = BenchReady | Benched
