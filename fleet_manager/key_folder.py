"""The operator's folder of keys: the root's, the learner's and the manager's, and the keyring that ties them together.

Only the root signs keyrings, and nothing but this folder needs it: keep it off the machines of the fleet. Each change
makes a keyring of the next generation; boards learn of it with the first frame that carries it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from msgspec.structs import replace

from fleet_protocol.codec import encode
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.keyring import MAX_LINEAGE, KeyGrant, Keyring, read_keyring
from fleet_protocol.keys import PrivateKey, key_id
from fleet_protocol.signing import KEYRING, Signer, seal_frame
from fleet_protocol.whole_files import write_whole

Role = Literal["learner", "manager"]

GRANTS: Final[dict[str, list[str]]] = {
    # The learner commands too: it pauses boards at a run's end, and has one of them evaluate.
    "learner": ["run", "policy", "candidate", "command"],
    "manager": ["command", "candidate", "desired"],
}
_DAY_S: Final = 86_400.0
_FOLDER_MODE: Final = 0o700
_NEXT_ROOT: Final = "root.next"


class KeyFolder:
    """Files `root.key`, `root.pub`, `learner.key`, `manager.key` and `keyring` of one fleet.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keyring = path / "keyring"

    def init(self, *, fleet: str, days: float) -> None:
        """Make all keys, and a keyring of generation 1 that is valid for so many days.

        Raises:
            ProgramError: There are keys already, or the disk does not take them.
        """
        if self._file("root").exists():
            raise ProgramError(
                ExitCode.USAGE, f"{self._path} has keys already; `edgerl keys rotate` replaces one of them"
            )
        root = PrivateKey()
        with _written(self._path):
            self._path.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
            root.save_public(self._path / "root.pub")
            grants = [self._new_key(role) for role in GRANTS]
            root.save(self._file("root"))
        self._sign(Keyring(fleet=fleet, keys=grants), generation=1, days=days)

    def rotate_root(self, *, days: float) -> str:
        """Hand over to a new root key; returns its id. Boards that hold the old one follow; new ones get the new one.

        Raises:
            ProgramError: The folder has no keys, roots were rotated too often, or the disk does not take them.
        """
        generation, keyring = self._read()
        if len(keyring.lineage) == MAX_LINEAGE:
            raise ProgramError(
                ExitCode.USAGE,
                f"the root was rotated {MAX_LINEAGE} times; make new keys with `edgerl keys init`, and give each board "
                "the new root.pub",
            )
        new = PrivateKey()
        handover = self._sealed(Keyring(fleet=keyring.fleet, keys=[], next_root=new.public), generation + 1, days=days)
        with _written(self._path):
            new.save(self._file(_NEXT_ROOT))  # whatever happens, the key of a keyring that is out there is kept
        keyring = replace(keyring, lineage=[*keyring.lineage, handover])
        self._sign(keyring, generation=generation + 2, days=days, root=new)
        self._adopt_next_root()
        return new.key_id

    def rotate(self, role: Role, *, days: float) -> str:
        """Make a role's key anew, and leave the old one out of the keyring; returns the new key's id.

        Raises:
            ProgramError: The folder has no keys, or the disk does not take them.
        """
        generation, keyring = self._read()
        with _written(self._path):
            grant = self._new_key(role)
        others = [other for other in keyring.keys if other.role != role]
        self._sign(replace(keyring, keys=[*others, grant]), generation=generation + 1, days=days)
        return key_id(grant.public)

    def revoke(self, revoked_id: str, *, days: float) -> None:
        """Take a key back for ever: what it signed is refused, and the floors that it raised are forgotten.

        Raises:
            ProgramError: It is no key's id, or the folder has no keys.
        """
        generation, keyring = self._read()
        if len(revoked_id) != len(key_id(b"")) or not set(revoked_id) <= set("0123456789abcdef"):
            known = ", ".join(key_id(grant.public) for grant in keyring.keys)
            raise ProgramError(ExitCode.USAGE, f"expected a key id of 16 hex digits, got {revoked_id!r}; here: {known}")
        kept = [grant for grant in keyring.keys if key_id(grant.public) != revoked_id]
        revoked = sorted({*keyring.revoked, revoked_id})
        self._sign(replace(keyring, keys=kept, revoked=revoked), generation=generation + 1, days=days)

    def renew(self, *, days: float) -> None:
        """Sign the keyring anew, with the same keys and a later end.

        Raises:
            ProgramError: The folder has no keys.
        """
        generation, keyring = self._read()
        self._sign(keyring, generation=generation + 1, days=days)

    def root_public(self) -> bytes:
        """The file that every board holds.

        Raises:
            OSError: There is none.
        """
        return (self._path / "root.pub").read_bytes()

    def signing_files(self, role: str) -> dict[str, bytes]:
        """The files with which a role signs, by name.

        Raises:
            OSError: They are not there.
        """
        return {"signing.key": self._file(role).read_bytes(), "keyring": self._keyring.read_bytes()}

    def rows(self) -> list[dict[str, object]]:
        """What is public about the keys, for a person.

        Raises:
            ProgramError: The folder has no keyring.
        """
        header, keyring, _ = read_keyring(self._keyring)
        until = datetime.fromtimestamp(header.expires_at, UTC).isoformat(timespec="seconds")

        def row(key: str, role: str, may_sign: str, until: str | None = None) -> dict[str, object]:
            whole = {"fleet": keyring.fleet, "generation": header.version}
            return {"key": key, "role": role, "may_sign": may_sign, "until": until, **whole}

        valid = [row(key_id(grant.public), grant.role, ", ".join(grant.kinds), until) for grant in keyring.keys]
        gone = [row(name, "revoked", "nothing") for name in keyring.revoked]
        return [row(header.issuer, "root", "keyrings"), *valid, *gone]

    def _file(self, name: str) -> Path:
        return self._path / f"{name}.key"

    def _new_key(self, role: str) -> KeyGrant:
        key = PrivateKey()
        key.save(self._file(role))
        return KeyGrant(public=key.public, role=role, kinds=GRANTS[role])

    def _read(self) -> tuple[int, Keyring]:
        self._adopt_next_root()
        header, keyring, _ = read_keyring(self._keyring)
        return header.version, keyring

    def _sign(self, keyring: Keyring, *, generation: int, days: float, root: PrivateKey | None = None) -> None:
        frame = self._sealed(keyring, generation, days=days, root=root)
        with _written(self._path):
            write_whole(self._keyring, frame)

    def _sealed(self, keyring: Keyring, generation: int, *, days: float, root: PrivateKey | None = None) -> bytes:
        return seal_frame(
            encode(keyring),
            kind=KEYRING,
            version=generation,
            run_id="",
            valid_s=days * _DAY_S,
            signer=Signer(root or PrivateKey.load(self._file("root"))),
        )

    def _adopt_next_root(self) -> None:
        """End a rotation of the root, perhaps one that was cut short after its keyring was written."""
        if not self._file(_NEXT_ROOT).exists():
            return
        new = PrivateKey.load(self._file(_NEXT_ROOT))
        if read_keyring(self._keyring)[0].issuer == new.key_id:
            with _written(self._path):
                new.save_public(self._path / "root.pub")
                self._file(_NEXT_ROOT).replace(self._file("root"))


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ProgramError(ExitCode.STATE_UNUSABLE, f"cannot write keys to {path}: {error.strerror}") from error
