"""What supervisor and worker say to each other through their pipe, encoded by the fleet's codec."""

from fleet_protocol.commands import EvaluationResult
from fleet_protocol.messages import Message, Problem, RunSpec, SketchState
from fleet_protocol.spaces import SpaceSpec


class StartRun(Message, frozen=True, kw_only=True, tag="start_run"):
    """The first message to a worker: what it is to do."""

    run: RunSpec
    copies: int
    seed: int
    """0 = from the operating system."""
    allowed_environments: list[str]


class LoadPolicy(Message, frozen=True, kw_only=True, tag="load_policy"):
    """Act with this from the next step on."""

    version: int
    model: bytes
    issued_monotonic_ns: int = 0
    """The learner's clock at publication, if it is this machine's clock too; else 0."""
    is_good: bool = False
    """It has proved itself on this board, and is not watched."""


class Credit(Message, frozen=True, kw_only=True, tag="credit"):
    """So many windows may be begun since the worker started."""

    windows: int


class Halt(Message, frozen=True, kw_only=True, tag="halt"):
    """Stop between two steps, say so, and wait; or go on."""

    halted: bool


class EvaluatePolicy(Message, frozen=True, kw_only=True, tag="evaluate"):
    """Play greedy episodes in environments of their own."""

    counter: int
    version: int
    model: bytes
    episodes: int
    seed: int


ToWorker = StartRun | LoadPolicy | Credit | Halt | EvaluatePolicy


class Ready(Message, frozen=True, kw_only=True, tag="ready"):
    """The environments are made."""

    observation_space: SpaceSpec
    action_space: SpaceSpec
    runtime: str


class WindowDone(Message, frozen=True, kw_only=True, tag="window"):
    """A packed window, and what was measured since the last one."""

    body: bytes
    env_steps: int
    sketches: dict[str, SketchState]
    counters: dict[str, int] = {}
    warnings: list[str] = []


class PolicyAnswer(Message, frozen=True, kw_only=True, tag="policy"):
    """A policy was loaded, or (with a problem) was not."""

    version: int
    problem: Problem | None = None


class PolicyVerdict(Message, frozen=True, kw_only=True, tag="verdict"):
    """An acting policy has proved itself, or (with a reason) has failed and acts no more."""

    version: int
    reason: str = ""
    sentence: str = ""


class Halted(Message, frozen=True, kw_only=True, tag="halted"):
    """No step is taken from now on."""


class Evaluated(Message, frozen=True, kw_only=True, tag="evaluated"):
    """The answer to EvaluatePolicy."""

    counter: int
    result: EvaluationResult | None = None
    problem: Problem | None = None


class Failed(Message, frozen=True, kw_only=True, tag="failed"):
    """The worker cannot do its run; it ends after this."""

    problem: Problem


FromWorker = Ready | WindowDone | PolicyAnswer | PolicyVerdict | Halted | Evaluated | Failed
