"""What supervisor and checker say to each other through their pipe, encoded by the fleet's codec."""

from fleet_protocol.messages import Message, RunSpec


class CheckPolicy(Message, frozen=True, kw_only=True):
    """Look at this, and say whether workers may have it."""

    serial: int
    """Comes back with the answer."""
    version: int
    run: RunSpec
    copies: int
    model: bytes
    good_us: float
    """Inference of the policy before it, 0 for none."""


class CheckerReady(Message, frozen=True, kw_only=True, tag="ready"):
    """Everything is loaded; what dies from now on dies of a policy."""


class PolicyChecked(Message, frozen=True, kw_only=True, tag="checked"):
    """The answer to CheckPolicy."""

    serial: int
    reason: str = ""
    """Empty for yes."""
    sentence: str = ""
    inference_us: float = 0.0
    """Median processor time of an inference."""


FromChecker = CheckerReady | PolicyChecked
