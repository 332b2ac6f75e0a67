"""A fleet's identities in one folder: what is made where, and what is copied to which machine.

`authority/` holds the CA, its tokens and its audit, and `keys/` the keys that sign what boards act on: both stay with
the operator. `broker/` goes to the broker's machine; `learner/`, `manager/`, `monitor/` and each of `boards/<id>/` hold
one program's credentials, with settings that name them. A board that enrols at the depot has no folder here: its key is
its own.

The command line and a depot may work on one folder at a time: whatever changes it takes its lock first.
"""

import fcntl
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from fleet_manager.authority import CertificateAuthority, PublicKey, key_pem, new_key
from fleet_manager.broker_files import ROLES, access_rules, give_to_mosquitto, mosquitto_conf
from fleet_manager.fleet_plan import FleetPlan, check_host, checked
from fleet_manager.key_folder import GRANTS, KeyFolder
from fleet_protocol.address import DEFAULT_TLS_PORT, BrokerAddress
from fleet_protocol.audit import AuditLog
from fleet_protocol.enrolment import Admission, FleetTrust
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.private_files import write_private, write_public

_BROKER: Final = "broker"
_DEPOT: Final = "depot"
_KEYRING_DAYS: Final = 365.0
_SIGNING: Final = 'signing_key = "signing.key"\nkeyring = "keyring"\n'
_MORE_SETTINGS: Final = {
    "board": 'root_key = "root.pub"\n',
    "learner": _SIGNING,
    "manager": f'{_SIGNING}audit = "audit.db"\n',
}


class FleetFolder:
    """The folder of a fleet that `create` has made.

    Raises:
        ProgramError: It is none.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._authority = CertificateAuthority(self._root / "authority")
        try:
            self._plan = msgspec.json.decode((self._root / "authority/fleet.json").read_bytes(), type=FleetPlan)
        except (OSError, msgspec.DecodeError) as error:
            raise ProgramError(ExitCode.STATE_UNUSABLE, f"{root}: no fleet.json that can be read ({error})") from error

    @classmethod
    def create(
        cls, root: Path, *, fleet: str, hosts: Sequence[str], port: int = DEFAULT_TLS_PORT, force: bool = False
    ) -> "FleetFolder":
        """Make a CA, the broker's files, and the credentials of learner, manager and monitor.

        Args:
            root: The folder.
            fleet: The fleet's name.
            hosts: Names and addresses under which programs reach the broker; the first goes into their settings.
            port: The broker's.
            force: Replace a CA that is there: all that it has issued becomes worthless.

        Raises:
            ProgramError: There is a CA and no `force`, or a name is none.
        """
        checked(fleet, what="fleet")
        if not hosts:
            raise ProgramError(
                ExitCode.USAGE, "expected at least one --host: the name by which boards reach the broker"
            )
        for host in hosts:
            check_host(host)
        folder = root.absolute() / "authority"
        if (folder / "ca.key").exists() and not force:
            raise ProgramError(
                ExitCode.STATE_UNUSABLE,
                f"{root} holds a CA already; `edgerl enroll` and `edgerl broker renew` use it. --force replaces it, "
                "and then every program and board needs new credentials",
            )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "tokens.db").unlink(missing_ok=True)  # they promise certificates of the CA that was here
        CertificateAuthority.create(folder, name=f"EdgeRL fleet {fleet}")
        plan = FleetPlan(fleet=fleet, hosts=list(hosts), port=port)
        write_public(folder / "fleet.json", msgspec.json.encode(plan))
        shutil.rmtree(root / "keys", ignore_errors=True)
        KeyFolder(root / "keys").init(fleet=fleet, days=_KEYRING_DAYS)
        fleet_folder = cls(root)
        fleet_folder.audit.append("founded", fleet=fleet)
        fleet_folder.renew(_BROKER)
        for role in ROLES:
            (fleet_folder.credentials(role) / "edgerl.toml").unlink(missing_ok=True)  # it may name another broker
            fleet_folder.renew(role)
        return fleet_folder

    @property
    def fleet(self) -> str:
        """The fleet's name."""
        return self._plan.fleet

    @property
    def hosts(self) -> list[str]:
        """Names and addresses of the broker's machine."""
        return self._plan.hosts

    @property
    def authority(self) -> CertificateAuthority:
        """The fleet's CA."""
        return self._authority

    @property
    def trust(self) -> FleetTrust:
        """What boards are to trust."""
        return FleetTrust(
            ca=self._authority.certificate_pem.decode("ascii"), root_public=self.keys.root_public().decode("ascii")
        )

    @property
    def private(self) -> Path:
        """What stays with the operator."""
        return self._root / "authority"

    @property
    def audit(self) -> AuditLog:
        """What was done with this folder."""
        return AuditLog(self.private / "audit.db")

    @contextmanager
    def alone(self) -> Generator[None]:
        """Keep all others from changing the folder."""
        with (self.private / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @property
    def keys(self) -> KeyFolder:
        """The keys that sign; after a change of theirs `hand_out_keys` brings it to where it is needed."""
        return KeyFolder(self._root / "keys")

    def hand_out_keys(self) -> None:
        """Write the signing keys, the keyring and the root's public key into the folders of those that need them."""
        for name in (*GRANTS, *(folder.name for folder in sorted((self._root / "boards").glob("*/")))):
            self._hand_out_keys(name)

    @property
    def broker(self) -> Path:
        """What the broker's machine needs."""
        return self._root / "broker"

    def credentials(self, name: str) -> Path:
        """The folder of a role or a board, to be copied to its machine."""
        return self._root / name if name in ROLES else self._root / "boards" / name

    def enroll(self, board_id: str) -> Path:
        """Make a new board's key and certificate, and settings that name them; returns their folder.

        Raises:
            ProgramError: The id is none, is a role's, or has credentials already.
        """
        self.check_board(board_id)
        if (self.credentials(board_id) / "client.key").exists():
            raise ProgramError(
                ExitCode.STATE_UNUSABLE,
                f"board {board_id!r} is enrolled in {self.credentials(board_id)}; `edgerl broker renew {board_id}` "
                "makes new credentials and leaves the old ones valid until they are revoked",
            )
        return self._make_client(board_id, deed="enrolled")

    def check_board(self, board_id: str) -> None:
        """Check that a board may have this id.

        Raises:
            ProgramError: It is none, or a program's.
        """
        checked(board_id, what="board")
        if board_id in (*ROLES, _BROKER, _DEPOT):
            raise ProgramError(ExitCode.USAGE, f"board {board_id!r}: this name is a program's; choose another")

    def admit(self, board_id: str, public_key: PublicKey) -> Admission:
        """Give a board that has made its own key a certificate for it; the caller works `alone`, and audits."""
        certificate = self._authority.issue_client(public_key, name=board_id)
        self._write_rules()  # a name that had been revoked is good again
        return Admission(
            certificate=certificate.decode("ascii"),
            settings=self._settings("board", cert="client.pem", key="client.pem"),
        )

    def make_depot(self, hosts: Sequence[str]) -> Path:
        """Make a server's key and certificate for a depot that is reached under these names; returns their folder."""
        for host in hosts:
            check_host(host)
        with self.alone():
            return self._make_server(_DEPOT, hosts)

    def renew(self, name: str) -> Path:
        """Make a new key and certificate for `broker`, a role, or an enrolled board; returns the folder.

        Raises:
            ProgramError: Nobody of this name is enrolled.
        """
        if name == _BROKER:
            return self._make_broker()
        if name not in ROLES and not self.credentials(name).is_dir():
            raise ProgramError(
                ExitCode.USAGE,
                f"nobody is enrolled as {name!r} in {self._root}; a board that made its own key renews by itself "
                "(`edgerl enroll --renew` there), or enrolls anew with a token",
            )
        return self._make_client(name, deed="renewed")

    def revoke(self, name: str) -> int:
        """Revoke all certificates of a name, in the broker's files; returns how many.

        Raises:
            ProgramError: There is none that is not revoked.
        """
        checked(name, what="name")
        with self.alone():
            number = self._authority.revoke(name)
            if not number:
                raise ProgramError(ExitCode.USAGE, f"{name!r} has no certificate of this fleet that is not revoked")
            self._write_rules()
        self.audit.append("revoked", name=name, certificates=number)
        return number

    def _make_broker(self) -> Path:
        folder = self.broker
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "data").chmod(0o700)
        with self.alone():
            self._make_server(_BROKER, self._plan.hosts)
            write_public(folder / "mosquitto.conf", mosquitto_conf(folder, port=self._plan.port).encode())
            self._write_rules()
        self.audit.append("renewed", name=_BROKER)
        return folder

    def _make_server(self, name: str, hosts: Sequence[str]) -> Path:
        key = new_key()
        certificate = self._authority.issue_server(key.public_key(), name=name, hosts=hosts)
        folder = self._root / name
        write_public(folder / "ca.crt", self._authority.certificate_pem)
        write_private(folder / "server.key", key_pem(key))
        write_public(folder / "server.crt", certificate)
        return folder

    def _write_rules(self) -> None:
        rules = access_rules(self._plan.fleet, banned=self._authority.revoked_names())
        write_public(self.broker / "revoked.crl", self._authority.revocations_pem)
        write_private(self.broker / "acl", rules.encode("ascii"))
        give_to_mosquitto(self.broker)

    def _make_client(self, name: str, *, deed: str) -> Path:
        folder, key = self.credentials(name), new_key()
        with self.alone():
            certificate = self._authority.issue_client(key.public_key(), name=name)
            write_public(folder / "ca.crt", self._authority.certificate_pem)
            write_private(folder / "client.key", key_pem(key))
            write_public(folder / "client.crt", certificate)
            self._hand_out_keys(name)
            settings = folder / "edgerl.toml"
            if not settings.exists():  # its owner may have added to it
                write_public(settings, self._settings("board" if name not in ROLES else name).encode("ascii"))
            self._write_rules()  # a name that had been revoked is good again
        self.audit.append(deed, name=name)
        return folder

    def _hand_out_keys(self, name: str) -> None:
        folder = self.credentials(name)
        if name in GRANTS:
            for file, content in self.keys.signing_files(name).items():
                write_private(folder / file, content)
        elif name not in ROLES:
            write_public(folder / "root.pub", self.keys.root_public())

    def _settings(self, table: str, *, cert: str = "client.crt", key: str = "client.key") -> str:
        address = BrokerAddress(self._plan.hosts[0], self._plan.port)
        return (
            f'[{table}]\nbroker = "{address}"\nfleet = "{self._plan.fleet}"\n'
            f'ca = "ca.crt"\ncert = "{cert}"\nkey = "{key}"\n{_MORE_SETTINGS.get(table, "")}'
        )
