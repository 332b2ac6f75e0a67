"""A board with a root key: every attack on what it is told is refused under a name of its own; honest change is not."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fleet_manager.key_folder import KeyFolder, Role
from fleet_protocol.clock import utc_timestamp
from fleet_protocol.codec import MAX_MESSAGE_BYTES, decode, encode
from fleet_protocol.keyring import KeyGrant, Keyring, read_keyring
from fleet_protocol.keys import PrivateKey, load_public
from fleet_protocol.messages import Frame, FrameHeader
from fleet_protocol.signing import KEYRING, FrameRefused, Signer, open_frame, seal_frame
from fleet_protocol.trust import VERSIONS_AT_ONCE, VERSIONS_PER_S, Floors, Trust

YEAR_DAYS: Final = 365.0
DAY_S: Final = 86_400.0


class Fleet:
    """A folder of keys, a board that holds its root, and what both say."""

    def __init__(self, path: Path, *, name: str = "f", days: float = YEAR_DAYS) -> None:
        self.path = path
        self.folder = KeyFolder(path)
        self.folder.init(fleet=name, days=days)
        self.board = self.new_board()

    def new_board(self, **changes: Any) -> Trust:
        root = load_public(self.path / "root.pub")
        return Trust(root, **{"fleet": "f", **changes})

    def signer(self, role: Role = "learner") -> Signer:
        return Signer(PrivateKey.load(self.path / f"{role}.key"), (self.path / "keyring").read_bytes())

    def seal(self, signer: Signer | None = None, **changes: Any) -> bytes:
        parts = {"kind": "policy", "version": 100, "run_id": "r", "target": "all", "signer": signer or self.signer()}
        return seal_frame(b"body", **(parts | changes))

    def open(self, payload: bytes, *, kind: str = "policy", target: str = "all", note: bool = True) -> FrameHeader:
        header, body = open_frame(payload, kind=kind, target=target, trust=self.board)
        assert body == b"body"
        if note:
            self.board.note(header)
        return header

    def refusal(self, payload: bytes, *, kind: str = "policy", target: str = "all") -> str:
        """The reason; and that nothing was raised by what was refused."""
        marks = self.board.floors.marks
        with pytest.raises(FrameRefused) as refused:
            self.open(payload, kind=kind, target=target)
        assert self.board.floors.marks == marks
        return refused.value.reason


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """A fleet whose board acts on policy 100 and has carried out command 100."""
    made = Fleet(tmp_path / "keys")
    made.open(made.seal())
    made.open(made.seal(kind="command", target="b1"), kind="command", target="b1")
    made.open(made.seal(kind="run", version=10), kind="run")
    made.open(made.seal(version=101))
    return made


def changed(payload: bytes, **changes: object) -> bytes:
    """The frame with other parts, its signature as it was."""
    return encode(msgspec.structs.replace(decode(payload, Frame), **changes))


def with_header(payload: bytes, signer: Signer | None = None, **changes: object) -> bytes:
    """The frame with another header; signed anew by `signer`, or not."""
    frame = decode(payload, Frame)
    header = encode(msgspec.structs.replace(decode(frame.header, FrameHeader), **changes))
    return changed(payload, header=header, signature=signer.key.sign(header) if signer else frame.signature)


def strangers_keyring(
    fleet: Fleet, key: PrivateKey, *, fleet_name: str = "f", root: PrivateKey | None = None
) -> Signer:
    """A key that somebody's own root has named."""
    grant = KeyGrant(public=key.public, role="learner", kinds=["run", "policy", "command"])
    keyring = Keyring(fleet=fleet_name, keys=[grant])
    frame = seal_frame(encode(keyring), kind=KEYRING, version=99, run_id="", signer=Signer(root or PrivateKey()))
    return Signer(key, frame)


def root_of(fleet: Fleet) -> PrivateKey:
    return PrivateKey.load(fleet.path / "root.key")


ATTACKS: dict[str, tuple[str, Callable[[Fleet], bytes]]] = {
    # arbitrary installation
    "no signature": ("unsigned", lambda _: seal_frame(b"body", kind="policy", version=102, run_id="r")),
    "signature cut off": ("unsigned", lambda f: changed(f.seal(version=102), signature=b"")),
    "zeros for a signature": ("signature", lambda f: changed(f.seal(version=102), signature=bytes(64))),
    "short signature": ("signature", lambda f: changed(f.seal(version=102), signature=b"x")),
    "a header that was not signed": ("signature", lambda f: with_header(f.seal(version=102), version=103)),
    "a known key's name": (
        "signature",
        lambda f: with_header(f.seal(version=102), Signer(PrivateKey()), issuer=f.signer().key.key_id),
    ),
    "an unknown key": ("unknown_key", lambda f: f.seal(Signer(PrivateKey(), f.signer().keyring), version=102)),
    "no keyring": ("keyring", lambda f: f.seal(Signer(f.signer().key), version=102)),
    "garbage for a keyring": ("keyring", lambda f: f.seal(Signer(f.signer().key, b"\xc1"), version=102)),
    "a keyring of another root": ("keyring", lambda f: f.seal(strangers_keyring(f, PrivateKey()), version=102)),
    "a keyring that the learner signed": (
        "keyring",
        lambda f: f.seal(strangers_keyring(f, PrivateKey(), root=PrivateKey.load(f.path / "learner.key")), version=102),
    ),
    "a keyring of another fleet": (
        "fleet",
        lambda f: f.seal(strangers_keyring(f, PrivateKey(), fleet_name="g", root=root_of(f)), version=102),
    ),
    # a key that may not
    "a policy by the manager": ("not_allowed", lambda f: f.seal(f.signer("manager"), version=102)),
    "a keyring in a policy's place": ("kind", lambda f: f.signer().keyring),
    # rollback, freeze, fast-forward
    "an older policy": ("rollback", lambda f: f.seal(version=99)),
    "an expired policy": ("expired", lambda f: f.seal(version=102, valid_s=-1.0)),
    "an expiry that is no number": (
        "expired",
        lambda f: with_header(f.seal(version=102), f.signer(), expires_at=float("nan")),
    ),
    "a version far ahead": ("fast_forward", lambda f: f.seal(version=101 + 2 * VERSIONS_AT_ONCE)),
    "a time far ahead": (
        "fast_forward",
        lambda f: with_header(f.seal(version=102), f.signer(), issued_at=utc_timestamp() + 400 * DAY_S),
    ),
    "a time that is no number": (
        "fast_forward",
        lambda f: with_header(f.seal(version=102), f.signer(), issued_at=float("nan")),
    ),
    # mix and match, wrong target
    "another body of the same size": ("hash", lambda f: changed(f.seal(version=102), body=b"bodx")),
    "another body": ("size", lambda f: changed(f.seal(version=102), body=b"x")),
    "a run in a policy's place": ("kind", lambda f: f.seal(kind="run", version=102)),
    "another group's policy": ("target", lambda f: f.seal(version=102, target="others")),
    # endless data
    "endless data": ("too_large", lambda f: f.seal(version=102) + bytes(MAX_MESSAGE_BYTES)),
    "a header without end": ("undecodable", lambda f: changed(f.seal(version=102), header=bytes(5000))),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_each_attack_is_refused_under_its_name(attack: str, fleet: Fleet):
    reason, make = ATTACKS[attack]
    assert fleet.refusal(make(fleet)) == reason
    assert fleet.open(fleet.seal(version=102)).version == 102


@pytest.mark.parametrize("kind", ["run", "command"])
def test_only_policies_may_be_large(kind: str, fleet: Fleet):
    payload = seal_frame(bytes(300_000), kind=kind, version=200, run_id="r", signer=fleet.signer())
    assert fleet.refusal(payload, kind=kind) == "too_large"


@pytest.mark.parametrize("version", [99, 100])
def test_a_command_is_carried_out_once_and_never_an_older_one(version: int, fleet: Fleet):
    assert (
        fleet.refusal(fleet.seal(kind="command", target="b1", version=version), kind="command", target="b1")
        == "replayed"
    )


def test_each_issuers_commands_are_counted_apart(fleet: Fleet):
    manager = fleet.signer("manager")
    payload = fleet.seal(manager, kind="command", target="b1", version=1)
    assert fleet.open(payload, kind="command", target="b1").issuer == manager.key.key_id
    assert fleet.refusal(payload, kind="command", target="b1") == "replayed"


def test_a_command_for_another_board_and_an_expired_one_are_refused(fleet: Fleet):
    late = fleet.seal(kind="command", target="b1", version=101, valid_s=-1.0)
    assert fleet.refusal(late, kind="command", target="b1") == "expired"
    other = fleet.seal(kind="command", target="b2", version=101)
    assert fleet.refusal(other, kind="command", target="b1") == "target"


def test_what_is_retained_may_come_again(fleet: Fleet):
    assert fleet.open(fleet.seal(version=101)).version == 101


def test_an_older_generation_is_a_rollback_and_a_new_run_counts_its_policies_from_the_start(fleet: Fleet):
    assert fleet.refusal(fleet.seal(kind="run", version=9), kind="run") == "rollback"
    fleet.open(fleet.seal(kind="run", version=11, run_id="s"), kind="run")
    assert fleet.open(fleet.seal(version=1, run_id="s")).version == 1
    assert not any(" r " in name for name in fleet.board.floors.marks)


def test_a_learner_that_has_published_for_weeks_is_not_too_far_ahead(fleet: Fleet):
    weeks_s = 3 * 7 * DAY_S
    version = 101 + int(VERSIONS_PER_S * weeks_s)
    issued_at = utc_timestamp() + weeks_s
    payload = with_header(
        fleet.seal(version=version), fleet.signer(), issued_at=issued_at, expires_at=issued_at + DAY_S
    )
    assert fleet.open(payload).version == version


@pytest.fixture(scope="module")
def quiet_fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A fleet whose board has heard nothing yet; hypothesis shares it."""
    return Fleet(tmp_path_factory.mktemp("quiet") / "keys")


@given(st.data())
def test_a_frame_with_any_byte_changed_is_refused_or_says_the_same(quiet_fleet: Fleet, data: st.DataObject):
    genuine = quiet_fleet.seal()
    payload = bytearray(genuine)
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    said = open_frame(genuine, kind="policy", trust=quiet_fleet.board)
    with suppress(FrameRefused):
        assert open_frame(bytes(payload), kind="policy", trust=quiet_fleet.new_board()) == said


# --- clocks


def test_an_expiry_is_judged_by_the_newest_time_that_was_signed_and_not_by_a_clock_that_stands_still(fleet: Fleet):
    ahead = utc_timestamp() + 10 * DAY_S
    fleet.open(with_header(fleet.seal(version=102), fleet.signer(), issued_at=ahead, expires_at=ahead + DAY_S))
    assert fleet.board.now() == ahead
    assert fleet.refusal(fleet.seal(version=103, valid_s=9 * DAY_S)) == "expired"


def test_an_expiry_is_judged_by_the_floor_in_the_settings_too(fleet: Fleet):
    fleet.board = fleet.new_board(clock_floor_s=utc_timestamp() + 2 * DAY_S)
    assert fleet.refusal(fleet.seal(valid_s=DAY_S)) == "expired"
    assert fleet.open(fleet.seal(valid_s=3 * DAY_S)).version == 100


def test_an_expired_keyring_vouches_for_nobody_until_it_is_renewed(tmp_path: Path):
    fleet = Fleet(tmp_path / "keys", days=-1.0)
    assert fleet.refusal(fleet.seal()) == "keyring_expired"
    fleet.folder.renew(days=1.0)
    assert fleet.open(fleet.seal()).version == 100


# --- rotation, revocation, recovery


def test_a_rotated_key_signs_no_more_and_the_new_one_goes_on_above_the_same_floors(fleet: Fleet):
    old = fleet.signer()
    fleet.folder.rotate("learner", days=YEAR_DAYS)
    fleet.open(fleet.seal(version=102))
    assert fleet.refusal(fleet.seal(old, version=103)) == "unknown_key"
    assert fleet.refusal(fleet.seal(version=100)) == "rollback"


def test_an_old_keyring_does_not_bring_a_revoked_key_back(fleet: Fleet):
    stolen = fleet.signer()
    fleet.folder.rotate("learner", days=YEAR_DAYS)
    fleet.folder.revoke(stolen.key.key_id, days=YEAR_DAYS)
    fleet.open(fleet.seal(version=102))
    assert fleet.refusal(fleet.seal(stolen, version=103)) == "revoked_key"
    assert fleet.board.is_revoked(stolen.key.key_id)


def test_after_a_stolen_key_drove_versions_and_times_up_a_revocation_brings_the_fleet_back(fleet: Fleet):
    stolen, ahead = fleet.signer(), utc_timestamp() + 300 * DAY_S
    high = 101 + VERSIONS_AT_ONCE
    fleet.open(with_header(fleet.seal(version=high), stolen, issued_at=ahead, expires_at=ahead + DAY_S))
    fleet.open(fleet.seal(kind="run", version=10 + VERSIONS_AT_ONCE, valid_s=400 * DAY_S), kind="run")
    assert fleet.refusal(fleet.seal(kind="run", version=11), kind="run") == "rollback"
    assert fleet.refusal(fleet.seal(version=high)) == "expired"
    fleet.folder.rotate("learner", days=YEAR_DAYS)
    fleet.folder.revoke(stolen.key.key_id, days=YEAR_DAYS)
    assert fleet.open(fleet.seal(kind="run", version=11), kind="run").version == 11
    assert fleet.open(fleet.seal(version=102)).version == 102


def test_a_board_follows_its_root_to_the_next_ones_and_the_old_ones_count_no_more(fleet: Fleet):
    old_roots: list[tuple[PrivateKey, Keyring]] = []
    first_root = load_public(fleet.path / "root.pub")
    for _ in range(2):
        old_roots.append((PrivateKey.load(fleet.path / "root.key"), read_keyring(fleet.path / "keyring")[1]))
        fleet.folder.rotate_root(days=YEAR_DAYS)
    late_board = Trust(first_root, fleet="f")
    for board in (fleet.board, late_board, fleet.new_board()):  # of the first root, twice, and of the last
        open_frame(fleet.seal(version=103), kind="policy", trust=board)
        for root, keyring in old_roots:
            forged = seal_frame(encode(keyring), kind=KEYRING, version=99, run_id="", signer=Signer(root))
            with pytest.raises(FrameRefused) as refused:
                open_frame(fleet.seal(Signer(fleet.signer().key, forged)), kind="policy", trust=board)
            assert refused.value.reason == "keyring"


def test_after_a_restart_a_board_still_knows_the_new_root(fleet: Fleet):
    first, keyring = PrivateKey.load(fleet.path / "root.key"), read_keyring(fleet.path / "keyring")[1]
    fleet.folder.rotate_root(days=YEAR_DAYS)
    fleet.open(fleet.seal(version=103))
    board = Trust(first.public, fleet="f", floors=decode(encode(fleet.board.floors), Floors))
    forged = seal_frame(encode(keyring), kind=KEYRING, version=99, run_id="", signer=Signer(first))
    with pytest.raises(FrameRefused) as refused:
        open_frame(fleet.seal(Signer(fleet.signer().key, forged), version=104), kind="policy", trust=board)
    assert refused.value.reason == "keyring"
    open_frame(fleet.seal(version=104), kind="policy", trust=board)


@pytest.mark.parametrize(
    "fault", ["a stranger's handover", "a handover of another fleet", "a role's handover", "cut out"]
)
def test_only_the_root_can_hand_over(fault: str, fleet: Fleet, tmp_path: Path):
    stranger = Fleet(tmp_path / "stranger", name="g" if "fleet" in fault else "f")
    thief = PrivateKey()
    signing = {"a stranger": stranger.path / "root.key", "a role": fleet.path / "learner.key"}
    key = next((path for name, path in signing.items() if fault.startswith(name)), fleet.path / "root.key")
    name = "g" if "fleet" in fault else "f"
    handover = seal_frame(
        encode(Keyring(fleet=name, keys=[], next_root=thief.public)),
        kind=KEYRING,
        version=50,
        run_id="",
        signer=Signer(PrivateKey.load(key)),
    )
    lineage = [] if fault == "cut out" else [handover]
    keyring = replace(read_keyring(fleet.path / "keyring")[1], lineage=lineage)
    forged = seal_frame(encode(keyring), kind=KEYRING, version=51, run_id="", signer=Signer(thief))
    assert fleet.refusal(fleet.seal(Signer(fleet.signer().key, forged))) == "keyring"


def test_what_was_accepted_is_good_later_whatever_has_expired_or_risen_since(fleet: Fleet):
    kept = fleet.seal(version=101, valid_s=-1.0)
    fleet.open(fleet.seal(version=500))
    fleet.folder.rotate("learner", days=-1.0)
    with pytest.raises(FrameRefused, match="has expired"):
        fleet.open(fleet.seal(version=501))
    header, _ = open_frame(kept, kind="policy", trust=fleet.board, is_remembered=True)
    assert header.version == 101


def test_what_was_accepted_is_not_good_later_once_it_is_changed_or_its_key_revoked(fleet: Fleet):
    stolen = fleet.signer()
    kept = fleet.seal(version=101)

    def reason(payload: bytes) -> str:
        with pytest.raises(FrameRefused) as refused:
            open_frame(payload, kind="policy", trust=fleet.board, is_remembered=True)
        return refused.value.reason

    frame = decode(kept, Frame)
    assert reason(encode(replace(frame, signature=bytes(64)))) == "signature"
    assert reason(encode(replace(frame, signature=b""))) == "unsigned"
    assert reason(encode(replace(frame, body=b"another"))) == "size"
    assert reason(fleet.seal(signer=fleet.signer("manager"))) == "not_allowed"
    fleet.folder.rotate("learner", days=YEAR_DAYS)
    fleet.folder.revoke(stolen.key.key_id, days=YEAR_DAYS)
    fleet.open(fleet.seal(version=102))
    assert reason(kept) == "revoked_key"


def test_what_was_saved_holds_after_a_restart(fleet: Fleet):
    saved = decode(encode(fleet.board.floors), Floors)
    fleet.board = fleet.new_board(floors=saved)
    assert fleet.refusal(fleet.seal(version=100)) == "rollback"
    assert fleet.refusal(fleet.seal(kind="command", target="b1"), kind="command", target="b1") == "replayed"
    assert fleet.refusal(fleet.seal(kind="run", version=9), kind="run") == "rollback"


def test_a_board_of_another_root_does_not_take_the_floors_of_this_one(fleet: Fleet, tmp_path: Path):
    other = Fleet(tmp_path / "other")
    with pytest.raises(FrameRefused) as refused:
        other.new_board(floors=fleet.board.floors)
    assert refused.value.reason == "keyring"


def test_a_board_without_a_root_key_takes_no_signed_frame(fleet: Fleet):
    with pytest.raises(FrameRefused) as refused:
        open_frame(fleet.seal(), kind="policy", unsigned_allowed=True)
    assert refused.value.reason == "signature"
