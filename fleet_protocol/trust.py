"""Whom a board believes: one root key, the newest keyring that it signed, and floors that only rise.

    root key --signs--> keyring (who may sign what, who is revoked) --names--> key --signs--> frame
        '--signs--> handover to the next root key --signs--> keyring ...

Every signed frame carries its keyring, and that its root's lineage, so that a frame is all that a board needs to judge
it. The board keeps the keyring of the highest generation, and judges by that one, whichever came. Floors belong to the
key that raised them, and go with it when it is revoked: so a fleet recovers from versions and times that a stolen key
has driven up.
"""

from typing import Annotated, Final

from msgspec import Meta
from msgspec.structs import replace

from fleet_protocol.clock import utc_timestamp
from fleet_protocol.codec import BadMessage, Message, decode
from fleet_protocol.keyring import KeyGrant, Keyring
from fleet_protocol.keys import is_signed, key_id
from fleet_protocol.messages import Frame, FrameHeader
from fleet_protocol.signing import KEYRING, FrameRefused, open_frame

VERSIONS_PER_S: Final = 1000
"""No learner publishes so fast: the smallest policy at the default bound on bytes makes 250 a second."""
VERSIONS_AT_ONCE: Final = 1_000_000
"""A learner skips up to 1,000 versions at each start; so many starts between two frames do not happen."""


class Mark(Message, frozen=True, kw_only=True):
    """The newest frame of one key and purpose that was acted on; `issued_at` in UTC seconds."""

    version: int
    issued_at: Annotated[float, Meta(ge=0.0)]


class Floors(Message, frozen=True, kw_only=True):
    """What a board must not forget: the frame of the newest keyring, and marks by `<key id> <purpose>`."""

    keyring: bytes = b""
    marks: dict[str, Mark] = {}

    def lasting(self) -> object:
        """What rises seldom, and must not fall by a single frame: all but policies and the clock that they push."""
        seldom = {
            name: mark for name, mark in self.marks.items() if not _purpose_of(name).startswith(("policy ", _CLOCK))
        }
        return self.keyring, seldom


class Trust:
    """Judges the signatures, versions and times of frames.

    Args:
        root_public: The root's public key, 32 bytes.
        fleet: The fleet that keyrings must be for.
        clock_floor_s: UTC seconds before which this machine's clock is known to be wrong.
        floors: What was kept before.

    Raises:
        FrameRefused: The kept keyring is not one of this root and fleet.
    """

    def __init__(
        self,
        root_public: bytes,
        *,
        fleet: str,
        clock_floor_s: float = 0.0,
        floors: Floors | None = None,
    ) -> None:
        self._root_public = root_public
        self._fleet = fleet
        self._clock_floor_s = clock_floor_s
        self._header: FrameHeader | None = None
        self._keyring = Keyring(fleet=fleet, keys=[])
        self.floors = floors or Floors()
        if self.floors.keyring:
            self._header, self._keyring, self._root_public = self._opened(self.floors.keyring)

    def now(self) -> float:
        """UTC seconds: this machine's clock, but never before what is known to have passed."""
        signed = max((mark.issued_at for mark in self.floors.marks.values()), default=0.0)
        keyring = self._header.issued_at if self._header else 0.0
        return max(utc_timestamp(), self._clock_floor_s, signed, keyring)

    def is_revoked(self, issuer: str) -> bool:
        """Whether the root has taken a key back."""
        return issuer in self._keyring.revoked

    def judge(self, frame: Frame, header: FrameHeader) -> float:
        """Check all of a frame but its body; returns `now` for its expiry.

        Raises:
            FrameRefused: It is unsigned, signed by a key that may not, old, or far ahead.
        """
        self._take_keyring(frame)
        grant = self._grant(header.issuer)
        if not is_signed(frame.header, frame.signature, public=grant.public):
            raise FrameRefused("signature", f"the signature is not that of key {header.issuer}")
        if header.kind not in grant.kinds:
            raise FrameRefused(
                "not_allowed", f"key {header.issuer} ({grant.role}) may sign {grant.kinds}, and not {header.kind}"
            )
        self._check_floors(header)
        return self.now()

    def recall(self, frame: Frame, header: FrameHeader) -> float:
        """Check a frame that was acted on in its time: by the keyring that it came with, and no floor or expiry.

        Raises:
            FrameRefused: It is not what was accepted, or its key was revoked since.
        """
        if not frame.signature:
            raise FrameRefused("unsigned", "expected a signature: this board holds a root key")
        _, keyring, _ = self._opened(frame.keyring)
        grant = next((grant for grant in keyring.keys if key_id(grant.public) == header.issuer), None)
        if self.is_revoked(header.issuer):
            raise FrameRefused("revoked_key", f"key {header.issuer} was revoked since")
        if grant is None or header.kind not in grant.kinds:
            raise FrameRefused("not_allowed", f"key {header.issuer} might not sign it then")
        if not is_signed(frame.header, frame.signature, public=grant.public):
            raise FrameRefused("signature", f"the signature is not that of key {header.issuer}")
        return self.now()

    def note(self, header: FrameHeader) -> None:
        """Raise the floors to a frame that was acted on."""
        marks = self.floors.marks
        if header.kind == "run" and header.version > self._floor(header).version:
            # Policies are counted for each run apart; their times stay under the key's clock.
            marks = {name: mark for name, mark in marks.items() if not _purpose_of(name).startswith("policy ")}
        raised = dict(marks)
        for name, version in ((_purpose(header), header.version), (_CLOCK, 0)):
            before = marks.get(f"{header.issuer} {name}", _NOTHING)
            raised[f"{header.issuer} {name}"] = Mark(
                version=max(before.version, version), issued_at=max(before.issued_at, header.issued_at)
            )
        if raised != self.floors.marks:
            self.floors = replace(self.floors, marks=raised)

    # --- keyrings ---------------------------------------------------------------------------------------------------

    def _take_keyring(self, frame: Frame) -> None:
        if not frame.signature:
            raise FrameRefused("unsigned", "expected a signature: this board holds a root key")
        if self._header is not None and frame.keyring == self.floors.keyring:
            return
        header, keyring, root_public = self._opened(frame.keyring)
        if self._header is None or header.version > self._header.version:
            self._header, self._keyring, self._root_public = header, keyring, root_public
            kept = {name: m for name, m in self.floors.marks.items() if name.partition(" ")[0] not in keyring.revoked}
            self.floors = Floors(keyring=frame.keyring, marks=kept)

    def _opened(self, payload: bytes) -> tuple[FrameHeader, Keyring, bytes]:
        """A keyring, and the root that has signed it: ours, or one that ours has handed over to."""
        try:
            keyring = decode(decode(payload, Frame).body, Keyring)
            root_public = self._root_public
            for handover in keyring.lineage:
                root_public = _successor(root_public, handover, fleet=self._fleet)
            header, _ = open_frame(payload, kind=KEYRING, trust=_Root(root_public))
        except (FrameRefused, BadMessage) as error:
            raise FrameRefused(
                "keyring", f"its keyring is not one that this board's root key signed: {error}"
            ) from error
        if keyring.fleet != self._fleet:
            raise FrameRefused("fleet", f"its keyring is for fleet {keyring.fleet!r}, and not for {self._fleet!r}")
        return header, keyring, root_public

    def _grant(self, issuer: str) -> KeyGrant:
        assert self._header is not None  # noqa: S101 - a frame without a keyring is refused before
        if self.is_revoked(issuer):
            raise FrameRefused("revoked_key", f"key {issuer} was revoked; sign with the one that took its place")
        if self.now() > self._header.expires_at:
            raise FrameRefused(
                "keyring_expired",
                f"keyring {self._header.version} has expired; `edgerl keys renew DIR` makes a new one",
            )
        grant = next((grant for grant in self._keyring.keys if key_id(grant.public) == issuer), None)
        if grant is None:
            raise FrameRefused("unknown_key", f"key {issuer} is not in keyring {self._header.version}")
        return grant

    # --- floors -----------------------------------------------------------------------------------------------------

    def _floor(self, header: FrameHeader) -> Mark:
        """The highest mark for a frame's purpose, of any key; commands count for each key apart."""
        purpose, marks = _purpose(header), self.floors.marks
        if header.kind in _COMMANDS:
            return marks.get(f"{header.issuer} {purpose}", _NOTHING)
        same = (mark for name, mark in marks.items() if _purpose_of(name) == purpose)
        return max(same, key=lambda mark: mark.version, default=_NOTHING)

    def _check_floors(self, header: FrameHeader) -> None:
        assert self._header is not None  # noqa: S101 - the same
        floor = self._floor(header)
        if header.kind in _COMMANDS and header.version <= floor.version:
            raise FrameRefused("replayed", f"{header.kind} {header.version} of {header.issuer} was seen before")
        if header.version < floor.version:
            raise FrameRefused(
                "rollback", f"{header.kind} {header.version} is older than {floor.version}, which was here"
            )
        # The root's word bounds the times that a stolen key can claim; and so, because of nan.
        if not 0 <= header.issued_at <= self._header.expires_at:
            raise FrameRefused("fast_forward", f"it claims a time after the end of keyring {self._header.version}")
        passed_s = max(0.0, header.issued_at - floor.issued_at)
        if floor.version and header.version - floor.version > VERSIONS_AT_ONCE + VERSIONS_PER_S * passed_s:
            raise FrameRefused("fast_forward", f"{header.kind} {header.version} is too far above {floor.version}")


_COMMANDS: Final = ("command", "candidate")
"""Each counts for its issuer's key, and comes once."""
_NOTHING: Final = Mark(version=0, issued_at=0.0)
_CLOCK: Final = "clock"
"""The purpose under which the newest time of a key is kept."""


class _Root:
    """Judges keyrings: signed by the root, and nothing else. Whether they have expired is asked when they are used."""

    def __init__(self, public: bytes) -> None:
        self._public = public

    def judge(self, frame: Frame, _header: FrameHeader) -> float:
        if not is_signed(frame.header, frame.signature, public=self._public):
            raise FrameRefused("signature", "the signature is not that of the root")
        return 0.0

    def recall(self, frame: Frame, header: FrameHeader) -> float:
        return self.judge(frame, header)


def _successor(root_public: bytes, handover: bytes, *, fleet: str) -> bytes:
    """The root that a handover names; the same root where it is of another one, which came before."""
    try:
        _, body = open_frame(handover, kind=KEYRING, trust=_Root(root_public))
    except FrameRefused as error:
        if error.reason == "signature":
            return root_public
        raise
    keyring = decode(body, Keyring)
    return keyring.next_root if keyring.next_root and keyring.fleet == fleet else root_public


def _purpose_of(name: str) -> str:
    return name.partition(" ")[2]


def _purpose(header: FrameHeader) -> str:
    """What a version counts: policies of a run and group, generations of a fleet, commands to a board."""
    return f"{header.kind} {header.run_id} {header.target}" if header.kind == "policy" else header.kind
