"""What the owner of a board decides; all else comes from the learner's RunSpec."""

import socket
from typing import Annotated

from msgspec import Meta, Struct, field


class BoardSettings(Struct, frozen=True, kw_only=True):
    """Table `[board]`; every field can be a flag or an `EDGERL_BOARD_*` variable."""

    broker: str = "127.0.0.1:1883"
    """Address of the MQTT broker, HOST or HOST:PORT."""
    ca: str = ""
    """File of the fleet's CA (PEM); with `cert` and `key` the broker is spoken to over TLS."""
    cert: str = ""
    """File of this program's certificate (PEM)."""
    key: str = ""
    """File of its private key (PEM)."""
    insecure: bool = False
    """Speak to a broker on another machine in plain text, where anybody between can read and change it."""
    fleet: str = "demo"
    """Name of the fleet."""
    board: str = ""
    """This board's id; by default the machine's host name."""
    workers: int = 1
    """Worker processes."""
    copies: int = 0
    """Environments per worker; 0 = as the run says."""
    allowed_environments: list[str] = field(default_factory=lambda: ["gymnasium."])
    """Module prefixes from which a run's environment may come: an environment is code."""
    seed: int = 0
    """Seed of the first worker; 0 = from the operating system."""
    outbox_bytes: int = 64 * 1024 * 1024
    """Bytes of unacked windows that are kept, in memory and on disk; beyond that the oldest are dropped, counted."""
    policy_bytes: Annotated[int, Meta(gt=0)] = 8 * 1024 * 1024
    """Bytes that a policy may have; a larger one is refused before it is read."""
    state: str = "edgerl-board"
    """Folder for what survives a restart, in a folder of the board's id; empty = nothing is kept."""
    spill_after_s: Annotated[float, Meta(gt=0.0)] = 10.0
    """Windows that are unacked for so long go to disk: a power cut costs at most what came in so many seconds."""
    keep_policy_every_s: Annotated[float, Meta(ge=0.0)] = 300.0
    """Seconds between policies that are written there: memory cards wear out."""
    step_timeout_s: Annotated[float, Meta(gt=0.0)] = 30.0
    """Seconds that a reset or a step of the environment may take before its worker is ended and replaced."""
    telemetry_period_s: float = 2.0
    """Seconds between telemetry messages."""
    root_key: str = ""
    """File of the fleet's root public key: only signed frames are acted on; empty = unsigned ones, on loopback."""
    clock_floor_s: Annotated[float, Meta(ge=0.0)] = 0.0
    """UTC seconds before which this board's clock is known to be wrong: when it was flashed."""


def default_board_id() -> str:
    """The host name, with what a topic cannot hold replaced."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in socket.gethostname())
    return name.strip("-_.")[:63] or "board"


def is_allowed(module: str, allowed: list[str]) -> bool:
    """Whether a module is one of these, or within one of them."""
    return any(f"{module}.".startswith(prefix if prefix.endswith(".") else f"{prefix}.") for prefix in allowed)
