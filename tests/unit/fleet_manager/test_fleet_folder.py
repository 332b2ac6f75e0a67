"""A fleet's folder: keys are their owner's alone and never overwritten unasked, and names are nobody else's."""

import stat
from pathlib import Path

import pytest

from fleet_manager.authority import CertificateAuthority
from fleet_manager.fleet_folder import FleetFolder
from fleet_protocol.exit_codes import ExitCode, ProgramError


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    return FleetFolder.create(tmp_path, fleet="home", hosts=["broker.local", "192.168.1.10", "fd00::1"])


def contents(root: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_keys_are_for_their_owner_alone(fleet: FleetFolder, tmp_path: Path):
    fleet.enroll("b1")
    keys = [*tmp_path.rglob("*.key")]
    assert len(keys) == 11
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    assert stat.S_IMODE((tmp_path / "authority").stat().st_mode) == 0o700
    assert [*fleet.credentials("b1").glob("ca.key")] == []


def test_who_signs_gets_its_own_key_and_a_board_the_roots_public_half_alone(fleet: FleetFolder, tmp_path: Path):
    fleet.enroll("b1")
    for role in ("learner", "manager"):
        assert (tmp_path / role / "signing.key").read_bytes() == (tmp_path / f"keys/{role}.key").read_bytes()
        assert (tmp_path / role / "keyring").read_bytes() == (tmp_path / "keys/keyring").read_bytes()
    assert (tmp_path / "boards/b1/root.pub").read_bytes() == (tmp_path / "keys/root.pub").read_bytes()
    assert not {*tmp_path.glob("m*/root.key"), *tmp_path.glob("boards/b1/*ing*"), *tmp_path.glob("monitor/*ing*")}
    assert 'root_key = "root.pub"' in (tmp_path / "boards/b1/edgerl.toml").read_text()
    assert 'signing_key = "signing.key"\nkeyring = "keyring"' in (tmp_path / "learner/edgerl.toml").read_text()


def test_a_change_of_keys_is_handed_out(fleet: FleetFolder, tmp_path: Path):
    fleet.enroll("b1")
    fleet.keys.rotate("learner", days=1.0)
    fleet.keys.rotate_root(days=1.0)
    assert (tmp_path / "learner/signing.key").read_bytes() != (tmp_path / "keys/learner.key").read_bytes()
    fleet.hand_out_keys()
    assert (tmp_path / "learner/signing.key").read_bytes() == (tmp_path / "keys/learner.key").read_bytes()
    assert (tmp_path / "manager/keyring").read_bytes() == (tmp_path / "keys/keyring").read_bytes()
    assert (tmp_path / "boards/b1/root.pub").read_bytes() == (tmp_path / "keys/root.pub").read_bytes()


def test_a_second_init_changes_nothing(fleet: FleetFolder, tmp_path: Path):
    before = contents(tmp_path)
    with pytest.raises(ProgramError, match="holds a CA already") as refused:
        FleetFolder.create(tmp_path, fleet="other", hosts=["h"])
    assert refused.value.exit_code == ExitCode.STATE_UNUSABLE
    assert contents(tmp_path) == before


def test_with_force_everything_is_new(fleet: FleetFolder, tmp_path: Path):
    fleet.enroll("b1")
    fleet.revoke("b1")
    before = contents(tmp_path)
    FleetFolder.create(tmp_path, fleet="home", hosts=["h"], force=True)
    kept = {path.name for path, content in contents(tmp_path).items() if before.get(path) == content}
    # What remains is b1's folder, which is worthless now.
    assert kept == {"ca.crt", "client.crt", "client.key", "root.pub", "edgerl.toml", "mosquitto.conf", "lock"}
    assert 'broker = "h:8883"' in (tmp_path / "learner/edgerl.toml").read_text()
    assert CertificateAuthority(tmp_path / "authority").revoked_names() == []


def test_a_board_is_not_enrolled_twice(fleet: FleetFolder, tmp_path: Path):
    fleet.enroll("b1")
    before = contents(tmp_path)
    with pytest.raises(ProgramError, match="edgerl broker renew b1"):
        fleet.enroll("b1")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["learner", "manager", "monitor", "broker", "a/b", "+", "#", "../x", "", "x\ny", "ö"])
def test_a_board_gets_no_name_that_gives_it_more(fleet: FleetFolder, name: str, tmp_path: Path):
    before = contents(tmp_path)
    with pytest.raises(ProgramError) as refused:
        fleet.enroll(name)
    assert refused.value.exit_code == ExitCode.USAGE
    assert contents(tmp_path) == before


@pytest.mark.parametrize("host", ["h:1883", "a b", "", 'x"y', "ö.local"])
def test_a_host_is_a_host(host: str, tmp_path: Path):
    with pytest.raises(ProgramError):
        FleetFolder.create(tmp_path, fleet="home", hosts=[host])
    assert not contents(tmp_path)


def test_revoking_is_counted_and_ends_with_new_credentials(fleet: FleetFolder, tmp_path: Path):
    authority = CertificateAuthority(tmp_path / "authority")
    fleet.enroll("b1")
    fleet.renew("b1")
    assert fleet.revoke("b1") == 2
    assert authority.revoked_names() == ["b1"]
    assert "user b1\ntopic deny #" in (fleet.broker / "acl").read_text()
    with pytest.raises(ProgramError, match="no certificate of this fleet that is not revoked"):
        fleet.revoke("b1")
    fleet.renew("b1")
    assert authority.revoked_names() == []
    assert "b1" not in (fleet.broker / "acl").read_text()


def test_a_role_can_be_revoked_and_renewed(fleet: FleetFolder):
    fleet.revoke("learner")
    assert (fleet.broker / "acl").read_text().startswith("user learner\ntopic deny #\n\nuser learner\n")
    fleet.renew("learner")
    assert "deny #" not in (fleet.broker / "acl").read_text()


@pytest.mark.parametrize("call", ["renew", "revoke"])
def test_a_stranger_cannot_be_renewed_or_revoked(fleet: FleetFolder, call: str):
    with pytest.raises(ProgramError, match="nobody") as refused:
        getattr(fleet, call)("nobody")
    assert refused.value.exit_code == ExitCode.USAGE


def test_a_folder_that_is_no_fleet_is_named(tmp_path: Path):
    with pytest.raises(ProgramError, match="edgerl broker init") as refused:
        FleetFolder(tmp_path)
    assert refused.value.exit_code == ExitCode.STATE_UNUSABLE
