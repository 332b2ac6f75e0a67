"""What boards are told to do, each in a signed frame, and what they answer."""

import hashlib
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from fleet_protocol.codec import MAX_MESSAGE_BYTES, Message
from fleet_protocol.messages import Count, Name, Positive, Problem, Ranges

LARGEST_MODEL: Final = MAX_MESSAGE_BYTES - 16_384
"""Bytes of a policy that can be sent, with a header and a keyring beside it."""


class Evaluate(Message, frozen=True, kw_only=True, tag="evaluate"):
    """Play greedy episodes with one policy version and reply with their returns."""

    policy_version: Count
    """0 = the newest that the board has."""
    episodes: Annotated[int, Meta(ge=1, le=10_000)]
    seed: Count = 0


class Pause(Message, frozen=True, kw_only=True, tag="pause"):
    """Stop acting and reply with the final counters of the run (D4)."""

    run_id: Name


class Resume(Message, frozen=True, kw_only=True, tag="resume"):
    """Act again."""


class Follow(Message, frozen=True, kw_only=True, tag="follow"):
    """Take the policies of this group until the run ends, or a heartbeat of its learner does not name the group."""

    group: Name


Command = Evaluate | Pause | Resume | Follow


class Bench(Message, frozen=True, kw_only=True, tag="bench"):
    """Measure what a policy would cost this board, in a process of its own, while nothing acts.

    The one command that travels as a `candidate`: it may be as large as a policy, and its key must be trusted with one.
    """

    model: bytes
    copies: Annotated[int, Meta(ge=1, le=4096)] = 1
    """Observations at a time."""
    steps: Annotated[int, Meta(ge=100, le=1_000_000)] = 2000
    warm_up: Annotated[int, Meta(ge=0, le=100_000)] = 100
    """Steps before those that are timed."""


class EvaluationResult(Message, frozen=True, kw_only=True, tag="evaluation"):
    """Greedy episodes with one policy version."""

    policy_version: Positive
    returns: list[float]
    lengths: list[Positive]


class BenchResult(Message, frozen=True, kw_only=True, tag="bench"):
    """What a policy costs a board: one thread, inference alone."""

    sha256: Annotated[bytes, Meta(min_length=32, max_length=32)]
    runtime: str
    load_ms: float
    """From the bytes to tensors."""
    first_us: float
    """The first inference, for which the runtime may have put something off."""
    p50_us: float
    p95_us: float
    p99_us: float
    p999_us: float
    steps: Positive
    rss_mb: float
    """By which loading and running it made the process larger."""
    temperature_c: float | None = None
    throttled: Count | None = None
    """As in Health, at the end."""


class EarlierBoot(Message, frozen=True, kw_only=True):
    """What an earlier boot of a board last wrote to disk of a run, and what has become of it: which seqs are where."""

    produced: Ranges
    outbox: Ranges
    dropped: dict[str, Ranges]


class AtRest(Message, frozen=True, kw_only=True, tag="at_rest"):
    """The final word of a paused board about its run: which seqs are where (D4)."""

    run_id: Name
    produced: Ranges
    outbox: Ranges
    dropped: dict[str, Ranges]
    earlier: dict[Name, EarlierBoot] = {}
    """By boot id: earlier boots whose outboxes this one goes on with."""


class CommandReply(Message, frozen=True, kw_only=True):
    """The answer to a command, matched by its issuer and counter."""

    board_id: Name
    boot_id: Name
    issuer: Name
    counter: Count
    result: EvaluationResult | AtRest | BenchResult | None = None
    problem: Problem | None = None


def kind_of(command: Command | Bench) -> Literal["command", "candidate"]:
    """As what it travels: the kind of its frame, and the last level of its topic."""
    return "candidate" if isinstance(command, Bench) else "command"


def words_of(command: Command | Bench) -> str:
    """Return a command as JSON, with all that was said; a policy in it by its size and SHA-256."""
    fields = msgspec.to_builtins(command)
    if isinstance(command, Bench):
        fields["model"] = {"bytes": len(command.model), "sha256": hashlib.sha256(command.model).hexdigest()}
    return msgspec.json.encode(fields).decode()
