"""The way of a policy from its frame to the workers: opened, matched with the run, checked, and then on the shelf."""

from collections.abc import Callable
from typing import Final

from edge_actor.board_link import ALL_GROUPS
from edge_actor.frame_gate import FrameGate
from edge_actor.policy_checker import PolicyChecker
from edge_actor.policy_shelf import HeldPolicy, PolicyShelf
from edge_actor.workforce import Workforce
from fleet_protocol.messages import LearnerReport, RunSpec
from fleet_protocol.signing import ALL_BOARDS, FrameRefused

_HEARTBEATS_BEHIND: Final = 2
"""A policy may be on its way while a heartbeat names it already."""


class Admission:
    """Lets policies in.

    Args:
        gate: Opens frames.
        policy_bytes: What a policy may have.
        shelf: Where policies go that workers may have.
        workforce: Told to load them.
        listen: Takes the group whose policies are to be heard, or `ALL_GROUPS`.
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
        listen: Callable[[str], None],
        count: Callable[[str, str], None],
    ) -> None:
        self._gate = gate
        self._policy_bytes = policy_bytes
        self._shelf = shelf
        self._workforce = workforce
        self._listen = listen
        self._count = count
        self._group = ""
        self._heartbeats_behind = 0
        self._run: RunSpec | None = None
        self._early: HeldPolicy | None = None
        self.checker = PolicyChecker(admit=self._admit, refuse=self._refuse, count=count)

    def begin_run(self, run: RunSpec) -> None:
        """Let in policies of this run; the workers for it are there."""
        if self._group not in ("", run.group):
            self._listen(ALL_GROUPS)
        self._run, self._group = run, run.group
        self.checker.begin_run(run, copies=self._workforce.copies)
        if self._early is not None:
            early, self._early = self._early, None
            self.offer(early, group=early.header.target)

    @property
    def group(self) -> str:
        """Whose policies are let in; empty before the first run."""
        return self._group

    def follow(self, group: str) -> None:
        """Let in policies of another group of this run."""
        self._group = group
        self._listen(group)

    def misses(self, report: LearnerReport) -> bool:
        """Whether policies are published and do not come, by a heartbeat of the learner.

        A learner that was started again does not know who was to follow which group: boards begin anew with the run's.
        """
        if self._run is None or report.run_id != self._run.run_id:
            return False
        if self._group != self._run.group and self._group not in report.versions:
            self.follow(self._run.group)
        is_behind = report.versions.get(self._group, 0) > self._shelf.highest_seen
        self._heartbeats_behind = self._heartbeats_behind + 1 if is_behind else 0
        return self._heartbeats_behind > 0 and self._heartbeats_behind % _HEARTBEATS_BEHIND == 0

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
        if group not in (self._group, ALL_BOARDS):
            raise FrameRefused("group", f"policy {policy.version} is for group {policy.header.target!r}")
        newest = self._shelf.newest
        if newest is not None and newest.header.sha256 == policy.header.sha256:
            if self._shelf.renew(policy):  # retained, and sent again; with another signature where keys have changed
                self._gate.note(policy.header)
            return
        if newest is not None and newest.version == policy.version and newest.header.target != group:
            return  # what acts already, in the form of the group that was followed before
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
