"""`edgerl keys`: makes, rotates, revokes and shows keys, keeps private ones private, and loses none."""

import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cloud_learner.config import SIGNED_KINDS, LearnerSettings
from fleet_manager.fleet_folder import FleetFolder
from fleet_manager.key_folder import KeyFolder
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.keyring import read_keyring
from fleet_protocol.keys import PrivateKey, load_public
from fleet_protocol.signing_keys import SigningKeys


def edgerl(*words: str | Path, exit_code: int = 0) -> str:
    """All that a command of `edgerl keys` prints."""
    command = [sys.executable, "-c", "from edgerl.cli import main; main()", "keys", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def shown(folder: Path) -> list[dict[str, Any]]:
    return json.loads(edgerl("show", folder, "--format", "json"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    KeyFolder(tmp_path / "keys").init(fleet="f", days=365.0)
    return tmp_path / "keys"


def settings(folder: Path, **changes: Any) -> LearnerSettings:
    return LearnerSettings(
        **{"fleet": "f", "signing_key": str(folder / "learner.key"), "keyring": str(folder / "keyring"), **changes}
    )


def keys_of(settings: LearnerSettings) -> SigningKeys | None:
    return SigningKeys.of(settings, kinds=SIGNED_KINDS, role="learner")


def test_init_makes_keys_that_only_their_owner_reads_and_refuses_to_do_it_twice(tmp_path: Path):
    folder = tmp_path / "fleet/keys"
    said = edgerl("init", folder, "--fleet", "f")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    private = dict.fromkeys(("root.key", "learner.key", "manager.key"), 0o600)
    assert modes == private | dict.fromkeys(("root.pub", "keyring"), 0o644)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    said += edgerl("init", folder, exit_code=ExitCode.USAGE) + edgerl("show", folder)
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}
    for name in private:
        secret = "".join(before[name].decode().splitlines()[1:-1])
        assert secret[20:] not in re.sub(r"\s", "", said)


def test_show_names_every_key_its_rights_and_its_end(folder: Path):
    rows = shown(folder)
    assert [(row["role"], row["may_sign"]) for row in rows] == [
        ("root", "keyrings"),
        ("learner", "run, policy, candidate, command"),
        ("manager", "command, candidate, desired"),
    ]
    assert rows[1]["key"] == PrivateKey.load(folder / "learner.key").key_id
    assert {(row["fleet"], row["generation"]) for row in rows} == {("f", 1)}


def test_a_rotation_replaces_the_key_and_a_revocation_names_it_for_ever(folder: Path):
    old = shown(folder)[1]["key"]
    assert "private" not in edgerl("rotate", "learner", folder).lower()
    new = shown(folder)[1:]
    assert old not in [row["key"] for row in new]
    edgerl("revoke", old, folder)
    edgerl("rotate", "manager", folder)
    edgerl("renew", folder, "--days", "7")
    rows = shown(folder)
    assert (rows[-1]["key"], rows[-1]["role"], rows[-1]["generation"]) == (old, "revoked", 5)
    assert keys_of(settings(folder)) is not None
    assert stat.S_IMODE((folder / "learner.key").stat().st_mode) == 0o600


def test_the_roots_successor_signs_and_leaves_the_other_keys_as_they_are(folder: Path):
    before = shown(folder)
    said = edgerl("rotate", "root", folder)
    after = shown(folder)
    assert after[0]["key"] in said
    assert after[0]["key"] != before[0]["key"]
    assert after[0]["generation"] == 3  # the handover was 2
    assert [row["key"] for row in after[1:]] == [row["key"] for row in before[1:]]
    assert PrivateKey.load(folder / "root.key").public == load_public(folder / "root.pub")
    edgerl("renew", folder)
    assert shown(folder)[0]["key"] == after[0]["key"]


@pytest.mark.parametrize("is_written", [True, False])
def test_a_rotation_of_the_root_that_is_cut_short_loses_no_key(
    is_written: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    old = shown(folder)[0]["key"]
    cut = "_adopt_next_root" if is_written else "_sign"  # after its keyring was written, or before

    def power_cut(*_: Any, **__: Any):
        raise InterruptedError

    with monkeypatch.context() as patch:
        keys = KeyFolder(folder)
        real, calls = getattr(keys, cut), iter([is_written])  # the first call of the one is in _read

        def cut_short(*values: Any, **names: Any):
            return real(*values, **names) if next(calls, False) else power_cut()

        patch.setattr(keys, cut, cut_short)
        with pytest.raises(InterruptedError):
            keys.rotate_root(days=1.0)
    edgerl("renew", folder)
    rows = shown(folder)
    assert (rows[0]["key"] != old) == is_written
    assert PrivateKey.load(folder / "root.key").public == load_public(folder / "root.pub")
    assert rows[0]["key"] == PrivateKey.load(folder / "root.key").key_id
    assert (folder / "root.next.key").exists() != is_written


def test_a_fleets_folder_is_known_and_its_programs_get_the_new_keys(tmp_path: Path):
    FleetFolder.create(tmp_path / "fleet", fleet="f", hosts=["h"])
    edgerl("rotate", "learner", tmp_path / "fleet")
    signing = PrivateKey.load(tmp_path / "fleet/learner/signing.key").key_id
    assert signing == shown(tmp_path / "fleet")[2]["key"] == shown(tmp_path / "fleet/keys")[2]["key"]


@pytest.mark.parametrize("name", ["learner", "", "0123456789ABCDEF", "0123456789abcde"])
def test_only_a_key_id_can_be_revoked(name: str, folder: Path):
    assert "expected a key id of 16 hex digits" in edgerl("revoke", name, folder, exit_code=ExitCode.USAGE)
    assert read_keyring(folder / "keyring")[1].revoked == []


def test_a_learner_without_keys_signs_nothing():
    assert keys_of(LearnerSettings()) is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"signing_key": ""}, "set together"),
        ({"keyring": ""}, "set together"),
        ({"fleet": "g"}, "is for fleet 'f'"),
        ({"signing_key": "nowhere"}, "cannot read the private key"),
        ({"keyring": "nowhere"}, "cannot read the keyring"),
        ({"signing_key": "{}/root.pub"}, "holds no Ed25519 private key"),
        ({"keyring": "{}/root.pub"}, "is no keyring"),
        ({"signing_key": "{}/root.key"}, "does not allow key"),
        ({"signing_key": "{}/manager.key"}, "does not allow key"),
    ],
    ids=str,
)
def test_a_learner_that_boards_would_refuse_does_not_start(changes: dict[str, str], sentence: str, folder: Path):
    with pytest.raises(ProgramError, match=sentence) as refusal:
        keys_of(settings(folder, **{name: text.format(folder) for name, text in changes.items()}))
    assert refusal.value.exit_code == ExitCode.CONFIG


def test_a_learner_with_an_expired_keyring_or_a_rotated_key_does_not_start(folder: Path, tmp_path: Path):
    old = tmp_path / "old.key"
    old.write_bytes((folder / "learner.key").read_bytes())
    KeyFolder(folder).rotate("learner", days=1.0)
    with pytest.raises(ProgramError, match="does not allow key"):
        keys_of(settings(folder, signing_key=str(old)))
    KeyFolder(folder).renew(days=-1.0)
    with pytest.raises(ProgramError, match="has expired"):
        keys_of(settings(folder))


def test_a_learner_follows_keys_that_are_replaced_and_keeps_the_old_until_both_files_fit(folder: Path, tmp_path: Path):
    keys = keys_of(settings(folder))
    assert keys is not None
    assert keys.problem == ""
    first = keys.signer.key.key_id

    def follow() -> bool:
        keys._look_due_at = 0.0
        return keys.follow()

    assert not follow()
    whole = (folder / "keyring").read_bytes()
    KeyFolder(folder).rotate("learner", days=7.0)
    new = (folder / "keyring").read_bytes()
    (folder / "keyring").write_bytes(whole)  # the key is there, and its keyring not yet
    assert not follow()
    assert keys.signer.key.key_id == first
    (folder / "keyring").write_bytes(new)
    assert follow()
    assert (keys.signer.key.key_id, keys.signer.keyring) == (shown(folder)[-1]["key"], new)
    assert "expires in 7 days; `edgerl keys renew" in keys.problem
    (folder / "keyring").unlink()
    assert not follow()
    assert keys.signer.keyring == new


def test_a_private_key_is_no_root_key_and_is_not_quoted(folder: Path):
    with pytest.raises(ProgramError, match="holds no Ed25519 public key") as refusal:
        load_public(folder / "root.key")
    assert (folder / "root.key").read_text().splitlines()[1] not in str(refusal.value)
    assert refusal.value.__cause__ is None
