"""Which policy the board should run: the newest that was accepted, and the last ones that proved themselves."""

from dataclasses import dataclass, field
from typing import Final

from edge_actor.quarantine import Quarantine
from fleet_protocol.clock import kernel_boot_id
from fleet_protocol.messages import FrameHeader
from fleet_protocol.signing import FrameRefused

_GOOD_ONES: Final = 2
"""Should the last good one fail after all, there is one more."""


@dataclass(frozen=True, slots=True)
class HeldPolicy:
    """A policy whose frame was checked; the frame is what may be kept, and was where it `is_recalled`."""

    header: FrameHeader
    model: bytes
    frame: bytes = b""
    is_recalled: bool = field(default=False, compare=False)

    @property
    def version(self) -> int:
        """Policy version."""
        return self.header.version

    @property
    def issued_monotonic_ns(self) -> int:
        """The learner's clock at publication where it tells how long the policy was on its way, else 0."""
        same_machine = self.header.kernel_boot_id and self.header.kernel_boot_id == kernel_boot_id()
        return self.header.issued_monotonic_ns if same_machine and not self.is_recalled else 0


class PolicyShelf:
    """Keeps a few policies of one run.

    Args:
        quarantine: The hashes of those that must never run again.

    Attributes:
        newest: What workers should act with; None before the first policy of the run.
        highest_seen: The highest version received, accepted or not.
    """

    def __init__(self, quarantine: Quarantine) -> None:
        self.newest: HeldPolicy | None = None
        self.highest_seen = 0
        self._good: list[HeldPolicy] = []
        self._proved_now: set[bytes] = set()
        self._quarantine = quarantine

    @property
    def last_good(self) -> HeldPolicy | None:
        """The newest that has proved itself on this board."""
        return self._good[0] if self._good else None

    def begin_run(self) -> None:
        """Forget the policies of the run before; what is quarantined stays so."""
        self.newest = None
        self._good = []
        self._proved_now = set()
        self.highest_seen = 0

    def require_acceptable(self, policy: HeldPolicy) -> None:
        """Refuse a policy that could not become the newest.

        Raises:
            FrameRefused: It is not newer, or has failed here before.
        """
        self.highest_seen = max(self.highest_seen, policy.version)
        if policy.header.sha256 in self._quarantine:
            raise FrameRefused("quarantined", f"policy {policy.version} has failed on this board before")
        if self.newest is not None and policy.version <= self.newest.version:
            raise FrameRefused("not_newer", f"policy {policy.version} is not newer than {self.newest.version}")

    def accept(self, policy: HeldPolicy) -> None:
        """Make a policy the newest.

        Raises:
            FrameRefused: It is not newer, or has failed here before.
        """
        self.require_acceptable(policy)
        self.newest = policy

    def recall(self, policy: HeldPolicy) -> None:
        """Have a policy back that proved itself before a restart, newest first; one that is locked away stays so."""
        if policy.header.sha256 not in self._quarantine:
            self._good.append(policy)
            self.newest = self.newest or policy
            self.highest_seen = max(self.highest_seen, policy.version)

    def renew(self, policy: HeldPolicy) -> bool:
        """Keep the frame of the newest policy as it is signed now; False where it is the one that is kept."""
        if self.newest is None or policy.version != self.newest.version or policy.header == self.newest.header:
            return False
        self._good = [policy if good.version == policy.version else good for good in self._good]
        self.newest = policy
        return True

    def prove(self, policy: HeldPolicy) -> None:
        """Note that a policy has proved itself."""
        self._proved_now.add(policy.header.sha256)
        last = self.last_good
        if last is None or policy.version > last.version:
            self._good = [policy, *self._good][:_GOOD_ONES]
            self._proved_now &= {good.header.sha256 for good in self._good}

    @property
    def is_healthy(self) -> bool:
        """A policy has proved itself since the agent started."""
        return bool(self._proved_now)

    def is_proved(self, policy: HeldPolicy) -> bool:
        """It has proved itself since the agent started, and is not to be watched again."""
        return policy.header.sha256 in self._proved_now

    def find(self, version: int) -> HeldPolicy | None:
        """A policy that is here, by its version."""
        held = [*self._good, *([self.newest] if self.newest else [])]
        return next((policy for policy in held if policy.version == version), None)

    def quarantine(self, policy: HeldPolicy) -> None:
        """Never run this policy again, and go back to the last good one if it was the newest."""
        sha256 = policy.header.sha256
        self._quarantine.add(sha256)
        self._proved_now.discard(sha256)
        self._good = [good for good in self._good if good.header.sha256 != sha256]
        if self.newest is None or self.newest.header.sha256 == sha256:
            self.newest = self.last_good
