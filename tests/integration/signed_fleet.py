"""A fleet with keys over a plain broker: a learner, board b1, and a stranger who hears and says what they like."""

from pathlib import Path

from fleet_processes import Program, board, learner

from edgerl.broker import RunningBroker
from fleet_manager.key_folder import KeyFolder
from fleet_protocol.codec import decode
from fleet_protocol.keys import PrivateKey
from fleet_protocol.messages import Frame, FrameHeader, Telemetry
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.signing import Signer, seal_frame
from fleet_protocol.topics import FleetTopics


class Fleet:
    """One fleet with keys; a stranger who hears and says what they like; and what board b1 reports."""

    def __init__(self, broker: RunningBroker, name: str, folder: Path) -> None:
        self.address, self.name, self.folder = broker.address, name, folder
        self.topics = FleetTopics(name)
        everything = Subscription(f"edgerl/1/{name}/#", 1, self.hear)
        self.stranger = MqttConnection(broker.address, client_id="stranger", subscriptions=[everything])
        self.keys, self.strangers_keys = KeyFolder(folder / "keys"), KeyFolder(folder / "strange")
        self.keys.init(fleet=name, days=1.0)
        self.strangers_keys.init(fleet=name, days=1.0)
        self.heard: dict[str, list[bytes]] = {}

    def hear(self, topic: str, payload: bytes) -> None:
        self.heard.setdefault(topic, []).append(payload)

    def signer(self, folder: str = "keys", role: str = "learner") -> Signer:
        path = self.folder / folder
        return Signer(PrivateKey.load(path / f"{role}.key"), (path / "keyring").read_bytes())

    def say(
        self, topic: str, body: bytes, signer: Signer | None, *, kind: str, version: int = 10**6, run_id: str = "x"
    ):
        target = "b1" if kind == "command" else "all"
        frame = seal_frame(body, kind=kind, version=version, run_id=run_id, target=target, signer=signer)
        assert self.stranger.publish(topic, frame, retain=kind != "command")

    def genuine(self, topic: str) -> list[Frame]:
        """What the learner's key has signed."""
        frames = [decode(payload, Frame) for payload in self.heard[topic]]
        return [frame for frame in frames if decode(frame.header, FrameHeader).issuer == self.signer().key.key_id]

    def board(self) -> Program:
        return board(self.folder, self.address, self.name, "b1", "--root-key", str(self.folder / "keys/root.pub"))

    def learner(self, *flags: str) -> Program:
        keys = ("--signing-key", str(self.folder / "keys/learner.key"), "--keyring", str(self.folder / "keys/keyring"))
        return learner(self.folder, self.address, self.name, *keys, *flags)

    def telemetry(self) -> Telemetry | None:
        reports = self.heard.get(self.topics.up("b1", "telemetry"))
        return decode(reports[-1], Telemetry) if reports else None

    def counted(self, name: str) -> int:
        return seen.counters.get(name, 0) if (seen := self.telemetry()) else 0

    def steps(self) -> int:
        return sum(run.env_steps for run in seen.runs.values()) if (seen := self.telemetry()) else 0

    def run_id(self) -> str:
        return seen.run_id if (seen := self.telemetry()) else ""
