"""Every message of the fleet: frozen, typed, decoded once. Read this first, and then `commands.py`.

A message is told by its topic (`topics.py`), encoded and decoded by `codec.py`, and never a dict past that point.
Evolution follows msgspec's rules: new fields have defaults, no field is renamed or retyped, unknown ones are ignored.
"""

from typing import Annotated, Literal

from msgspec import Meta

from fleet_protocol.codec import Message
from fleet_protocol.spaces import SpaceSpec

Name = Annotated[str, Meta(min_length=1, max_length=63)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Sentence = Annotated[str, Meta(max_length=2000)]
Scalar = bool | int | float | str | None
Sequence = Annotated[int, Meta(ge=0, le=2**48 - 1)]
"""A window's number on its boot; no board lives long enough to reach the end."""
Ranges = list[tuple[Sequence, Sequence]]
"""Sequence numbers as (first, last), both included."""


# --- learner to boards ----------------------------------------------------------------------------------------------


class RunSpec(Message, frozen=True, kw_only=True):
    """What a board is to do: all that a freshly flashed one needs. The body of a signed frame, retained."""

    run_id: Name
    generation: Positive
    """Rises with every RunSpec of a fleet: the higher one wins, in whatever order they arrive."""
    env_id: Annotated[str, Meta(min_length=1, max_length=200)]
    env_kwargs: dict[str, Scalar | list[Scalar]] = {}
    group: Name = "all"
    unroll_length: Annotated[int, Meta(ge=1, le=65_536)]
    """T: steps of every copy in one trajectory."""
    copies: Annotated[int, Meta(ge=1, le=4096)] = 1
    """N: environments per worker, unless the board's owner has said otherwise."""
    max_in_flight: Count = 2
    """Windows of one worker that may be unacked before it waits for the learner; 0 = it never waits."""
    max_age_s: float = 60.0
    """A window older than this is dropped on the board."""
    frame_stack: Annotated[int, Meta(ge=1, le=16)] = 1
    """So many observations, the newest last, make what a policy sees."""
    control_hz: Annotated[float, Meta(ge=0.0, le=10_000.0)] = 0.0
    """Steps a second, kept by the clock; 0 = as fast as it goes. With a rate, boards never wait for the learner."""
    safe_action: Annotated[list[float], Meta(max_length=4096)] = []
    """Applied, flat, at a missed deadline; empty = the last action again."""


class FrameHeader(Message, frozen=True, kw_only=True):
    """What is signed: it names its body by size and hash (`signing.py`)."""

    kind: Literal["run", "policy", "command", "candidate", "desired", "keys"]
    issuer: Name
    """The id of the key that signs; unsigned, whatever the issuer calls itself."""
    run_id: str
    version: Count
    """Policy version, generation of a RunSpec or keyring, or command counter: it only rises."""
    target: Name
    """The group or the board that it is for; `all` for every board."""
    issued_at: float
    expires_at: float
    """UTC seconds. Expiry gates acceptance, never continued use."""
    size: Count
    sha256: Annotated[bytes, Meta(min_length=32, max_length=32)]
    issued_monotonic_ns: Count = 0
    kernel_boot_id: str = ""
    """With these two, a board on the learner's own machine measures publish-to-act exactly."""


class Frame(Message, frozen=True, kw_only=True):
    """A signed frame: `signature` is Ed25519 over the exact bytes of `header`, empty only on loopback."""

    header: Annotated[bytes, Meta(max_length=4096)]
    signature: Annotated[bytes, Meta(max_length=64)]
    body: bytes
    keyring: Annotated[bytes, Meta(max_length=16_384)] = b""
    """The frame, signed by the root, of the Keyring that names the signer; empty only on loopback."""


class PolicyLag(Message, frozen=True, kw_only=True):
    """Learner version minus acting version, per step, in versions."""

    mean: float
    p95: float
    max: Count


class LearnerReport(Message, frozen=True, kw_only=True):
    """The learner's heartbeat, retained on `learner`."""

    run_id: Name
    generation: Positive
    env_id: str
    state: Literal["waiting", "learning", "settling", "ended"]
    versions: dict[Name, Count]
    """The newest published policy version of each group."""
    heartbeat_s: float
    env_steps: Count = 0
    learner_updates: Count = 0
    episodes: Count = 0
    return_mean_100: float | None = None
    target_return: float | None = None
    policy_lag: PolicyLag | None = None
    steps_per_s: float = 0.0
    problem: Sentence = ""


class Ack(Message, frozen=True, kw_only=True):
    """Windows of one boot that are finished: learned, or refused with a counted reason (D3)."""

    boot_id: Name
    finished: Ranges


# --- boards to all --------------------------------------------------------------------------------------------------


class Problem(Message, frozen=True, kw_only=True):
    """Why a board does not do what its run asks; `code` is an exit code."""

    code: Count
    sentence: Sentence


class Birth(Message, frozen=True, kw_only=True, tag="birth"):
    """A board is there. Published at connect, and again when the spaces of its run are known."""

    board_id: Name
    boot_id: Name
    session_id: Name
    software: str
    hardware: str = ""
    """The machine's model and processor."""
    runtime: str = ""
    """TFLite's, with its version."""
    kernel_boot_id: str = ""
    run_id: str = ""
    """Empty until a worker has made the run's environment."""
    observation_space: SpaceSpec | None = None
    action_space: SpaceSpec | None = None
    workers: Positive = 1
    copies: Count = 0
    problem: Problem | None = None


class Death(Message, frozen=True, kw_only=True, tag="death"):
    """A board is gone; its last will says `lost`."""

    board_id: Name
    boot_id: Name
    session_id: Name
    reason: Literal["clean", "lost"]


Status = Birth | Death


class TrajectoryMessage(Message, frozen=True, kw_only=True):
    """One window and whose it is (D2). The header is packed at each send, the body once, by the worker."""

    run_id: Name
    board_id: Name
    boot_id: Name
    seq: Sequence
    oldest_seq: Sequence
    """The lowest seq still in the outbox: everything below it is finished or gone."""
    body: bytes


class SketchState(Message, frozen=True, kw_only=True):
    """A latency sketch on the wire (`sketch.py`)."""

    count: Count = 0
    total: float = 0.0
    minimum: float = 0.0
    maximum: float = 0.0
    zeros: Count = 0
    indices: list[int] = []
    counts: list[Count] = []


class RunCounters(Message, frozen=True, kw_only=True):
    """What became of the windows of one run on one boot: produced = acked + dropped + in_outbox (D4)."""

    produced: Count = 0
    acked: Count = 0
    dropped: dict[str, Count] = {}
    in_outbox: Count = 0
    env_steps: Count = 0


class Health(Message, frozen=True, kw_only=True):
    """How the board itself is; None for what it cannot tell."""

    pss_mb: float = 0.0
    """Memory of the agent's processes together, shared pages counted in part."""
    outbox_bytes: Count = 0
    cpu_percent: float | None = None
    """Of all cores together, 0 to 100, since the telemetry before."""
    cpu_mhz: float | None = None
    temperature_c: float | None = None
    throttled: Count | None = None
    """Raspberry Pi's bits: 0 under-voltage, 1 frequency capped, 2 throttled, 3 hot; from bit 16 on, since boot."""
    memory_available_mb: float | None = None
    disk_free_mb: float | None = None
    wifi_dbm: float | None = None
    """Signal of the strongest wireless link."""


class Telemetry(Message, frozen=True, kw_only=True):
    """Cumulative since boot, so that a lost message loses nothing."""

    board_id: Name
    boot_id: Name
    uptime_s: float
    run_id: str = ""
    policy_group: str = ""
    """Whose policies it takes; empty before its first run."""
    policy_version: Count = 0
    highest_version_seen: Count = 0
    runs: dict[str, RunCounters] = {}
    sketches: dict[str, SketchState] = {}
    counters: dict[str, Count] = {}
    """Everything refused, dropped or restarted, by name."""
    health: Health = Health()


class LogLine(Message, frozen=True, kw_only=True):
    """One line of a board's log."""

    level: Literal["debug", "info", "warning", "error"]
    at: float
    text: Sentence
