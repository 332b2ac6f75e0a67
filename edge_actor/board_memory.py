"""What a board keeps over a restart, to act before any network is there: its run and its last good policy (D7).

Both are kept as the frames that they came in, so that whatever checks a frame from the broker checks them again. What
cannot be read is as if it were not there, and counted.
"""

import time
from typing import Final

from edge_actor.board_files import BoardFiles
from edge_actor.frame_gate import FrameGate
from edge_actor.policy_shelf import HeldPolicy
from fleet_protocol.codec import BadMessage, decode
from fleet_protocol.messages import FrameHeader, RunSpec
from fleet_protocol.signing import FrameRefused

_RUN: Final = "run.frame"
_POLICY: Final = "policy.frame"
_POLICY_BEFORE: Final = "policy.before.frame"

KeptRun = tuple[FrameHeader, RunSpec]


class BoardMemory:
    """Three files of a board: its run, the policy that was kept last, and the one that was kept before it.

    Args:
        files: Where they are.
        gate: Checks them.
        keep_policy_every_s: A policy is written no more often than this: cards wear out.
    """

    def __init__(self, files: BoardFiles, gate: FrameGate, *, keep_policy_every_s: float) -> None:
        self._files = files
        self._gate = gate
        self._keep_policy_every_s = keep_policy_every_s
        self._policy_due_at = 0.0
        self._kept: FrameHeader | None = None

    def recall(self) -> tuple[KeptRun, list[HeldPolicy]] | None:
        """The run that the board was last told of, and policies of it that proved themselves, the newest first."""
        run = self._recall_run()
        policies = [self._recall_policy(name) for name in (_POLICY, _POLICY_BEFORE)]
        if run is None:
            return None
        kept = [policy for policy in policies if policy is not None and policy.header.run_id == run[1].run_id]
        self._kept = kept[0].header if kept else None
        return (run, kept) if kept else None

    def keep_run(self, frame: bytes) -> None:
        """Keep a run's frame; unchanged, it is not written again."""
        if self._files.exist and self._files.read(_RUN) != frame:
            self._files.write(_RUN, frame)
            self._policy_due_at = 0.0

    def keep_policy(self, policy: HeldPolicy | None, *, now: bool = False) -> None:
        """Keep a policy that has proved itself, if it is time for that, or at once.

        The kept one under another signature is written at once: its key may be revoked before the next start.
        """
        if policy is None or policy.header == self._kept:
            return
        of_this_run = self._kept if self._kept and self._kept.run_id == policy.header.run_id else None
        if of_this_run is not None and policy.version < of_this_run.version:
            return
        is_signed_anew = of_this_run is not None and policy.version == of_this_run.version
        if now or is_signed_anew or time.monotonic() >= self._policy_due_at:
            self._policy_due_at = time.monotonic() + self._keep_policy_every_s
            if not is_signed_anew:
                # Renamed first: whenever the power goes, one of the two names holds a whole policy.
                self._files.rename(_POLICY, _POLICY_BEFORE)
            self._kept = policy.header
            self._files.write(_POLICY, policy.frame)
            self._forget_what_is_of_a_key_that_went()

    def _forget_what_is_of_a_key_that_went(self) -> None:
        """After a rotation the policy before is of no use, and at the next start it would look like damage."""
        frame = self._files.read(_POLICY_BEFORE)
        try:
            if frame is not None:
                self._gate.reopen(frame, kind="policy")
        except FrameRefused:
            self._files.remove(_POLICY_BEFORE)

    def _recall_run(self) -> KeptRun | None:
        opened = self._open(_RUN, "run")
        if opened is None:
            return None
        header, body, _ = opened
        try:
            return header, decode(body, RunSpec)
        except BadMessage as error:
            self._files.note_useless(_RUN, error)
            return None

    def _recall_policy(self, name: str) -> HeldPolicy | None:
        opened = self._open(name, "policy")
        return HeldPolicy(*opened, is_recalled=True) if opened is not None else None

    def _open(self, name: str, kind: str) -> tuple[FrameHeader, bytes, bytes] | None:
        frame = self._files.read(name)
        if frame is None:
            return None
        try:
            return *self._gate.reopen(frame, kind=kind), frame
        except FrameRefused as error:
            self._files.note_useless(name, error)
            return None
