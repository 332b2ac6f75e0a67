"""Which policy the board should run: the newest that was accepted, and the last one that proved itself."""

from dataclasses import dataclass

from fleet_protocol.clock import kernel_boot_id
from fleet_protocol.messages import FrameHeader
from fleet_protocol.signing import FrameRefused


@dataclass(frozen=True, slots=True)
class HeldPolicy:
    """A policy whose frame was checked; the frame is what may be kept."""

    header: FrameHeader
    model: bytes
    frame: bytes = b""

    @property
    def version(self) -> int:
        """Policy version."""
        return self.header.version

    @property
    def issued_monotonic_ns(self) -> int:
        """The learner's clock at publication where it is this machine's too, else 0."""
        same_machine = self.header.kernel_boot_id and self.header.kernel_boot_id == kernel_boot_id()
        return self.header.issued_monotonic_ns if same_machine else 0


class PolicyShelf:
    """Keeps at most two policies of one run, and the hashes of those that must never run again.

    Attributes:
        newest: What workers should act with; None before the first policy of the run.
        last_good: The newest that has filled a window on this board.
        highest_seen: The highest version received, accepted or not.
    """

    def __init__(self) -> None:
        self.newest: HeldPolicy | None = None
        self.last_good: HeldPolicy | None = None
        self.highest_seen = 0
        self._quarantined: set[bytes] = set()

    def begin_run(self) -> None:
        """Forget the policies of the run before; what is quarantined stays so."""
        self.newest = self.last_good = None
        self.highest_seen = 0

    def accept(self, policy: HeldPolicy) -> None:
        """Make a policy the newest.

        Raises:
            FrameRefused: It is not newer, or has failed here before.
        """
        self.highest_seen = max(self.highest_seen, policy.version)
        if policy.header.sha256 in self._quarantined:
            raise FrameRefused("quarantined", f"policy {policy.version} has failed on this board before")
        if self.newest is not None and policy.version <= self.newest.version:
            raise FrameRefused("not_newer", f"policy {policy.version} is not newer than {self.newest.version}")
        self.newest = policy

    def renew(self, policy: HeldPolicy) -> bool:
        """Keep the frame of the newest policy as it is signed now; False where it is the one that is kept."""
        if self.newest is None or policy.version != self.newest.version or policy.header == self.newest.header:
            return False
        if self.last_good is not None and self.last_good.version == policy.version:
            self.last_good = policy
        self.newest = policy
        return True

    def prove(self, policy: HeldPolicy) -> None:
        """Note that a policy has filled a window."""
        if self.last_good is None or policy.version > self.last_good.version:
            self.last_good = policy

    def quarantine(self, policy: HeldPolicy) -> None:
        """Never run this policy again, and go back to the last good one if it was the newest."""
        self._quarantined.add(policy.header.sha256)
        if self.newest is not None and self.newest.header.sha256 == policy.header.sha256:
            self.newest = self.last_good
