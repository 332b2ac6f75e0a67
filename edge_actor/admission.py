"""The way of a policy from its frame to the workers: opened, matched with the run, checked, and then on the shelf."""

from collections.abc import Callable

from edge_actor.frame_gate import FrameGate
from edge_actor.policy_checker import PolicyChecker
from edge_actor.policy_shelf import HeldPolicy, PolicyShelf
from edge_actor.workforce import Workforce
from fleet_protocol.messages import RunSpec
from fleet_protocol.signing import ALL_BOARDS, FrameRefused


class Admission:
    """Lets policies in.

    Args:
        gate: Opens frames.
        policy_bytes: What a policy may have.
        shelf: Where policies go that workers may have.
        workforce: Told to load them.
        count: Takes a counter's name and a sentence.

    Attributes:
        checker: To be waited on and served.
    """

    def __init__(
        self,
        gate: FrameGate,
        *,
        policy_bytes: int,
        shelf: PolicyShelf,
        workforce: Workforce,
        count: Callable[[str, str], None],
    ) -> None:
        self._gate = gate
        self._policy_bytes = policy_bytes
        self._shelf = shelf
        self._workforce = workforce
        self._count = count
        self._run: RunSpec | None = None
        self._early: HeldPolicy | None = None
        self.checker = PolicyChecker(admit=self._admit, refuse=self._refuse, count=count)

    def begin_run(self, run: RunSpec) -> None:
        """Let in policies of this run; the workers for it are there."""
        self._run = run
        self.checker.begin_run(run, copies=self._workforce.copies)
        if self._early is not None:
            early, self._early = self._early, None
            self.offer(early, group=early.header.target)

    def take(self, payload: bytes, *, group: str) -> None:
        """Take a frame from the topic of a group.

        Raises:
            FrameRefused: It is not for this board, or not now.
        """
        header, body = self._gate.open(payload, kind="policy", target=group)
        if len(body) > self._policy_bytes:
            raise FrameRefused("too_large", f"expected a policy of at most {self._policy_bytes} bytes, got {len(body)}")
        self.offer(HeldPolicy(header, body, frame=payload), group=group)

    def offer(self, policy: HeldPolicy, *, group: str) -> None:
        """Take a policy whose frame was checked.

        Raises:
            FrameRefused: It is not for this board, or not now.
        """
        if self._run is None or policy.header.run_id != self._run.run_id:
            self._early = policy  # its RunSpec may be on its way
            return
        if self._is_revoked(policy):
            return
        if group not in (self._run.group, ALL_BOARDS):
            raise FrameRefused("group", f"policy {policy.version} is for group {policy.header.target!r}")
        newest = self._shelf.newest
        if newest is not None and newest.header.sha256 == policy.header.sha256:
            if self._shelf.renew(policy):  # retained, and sent again; with another signature where keys have changed
                self._gate.note(policy.header)
            return
        if newest is not None and self._gate.is_revoked(newest.header):
            self._shelf.begin_run()
        self._shelf.require_acceptable(policy)
        self.checker.offer(policy)

    def recall(self, policies: list[HeldPolicy]) -> None:
        """Have policies of this run back that proved themselves before a restart, newest first.

        They were checked in their time, and do not wait for the checker: a newer one must not take their place behind
        it, or there would be nothing to go back to.
        """
        for policy in policies:
            self._shelf.recall(policy)
        self._workforce.load_newest()

    def _is_revoked(self, policy: HeldPolicy) -> bool:
        if is_revoked := self._gate.is_revoked(policy.header):
            self._count("policy_revoked_key", f"policy {policy.version} waited, and its key was revoked since")
        return is_revoked

    def _admit(self, policy: HeldPolicy) -> None:
        if self._is_revoked(policy):
            return
        self._shelf.accept(policy)
        self._gate.note(policy.header)
        self._workforce.load_newest()

    def _refuse(self, policy: HeldPolicy) -> None:
        before = self._shelf.newest
        self._shelf.quarantine(policy)
        if self._shelf.newest is not before:
            self._workforce.load_newest()
