"""The programs of a fleet as they run after `edgerl broker init`: each with the folder of its own credentials."""

import shutil
import subprocess
import sys
from pathlib import Path

from fleet_processes import Program
from hardened_broker import HardenedFleet

from fleet_monitor.collector import Collector
from fleet_protocol.keys import PrivateKey
from fleet_protocol.messages import Telemetry
from fleet_protocol.signing import Signer


class TlsFleet:
    """Boards, a learner and an operator on a hardened broker.

    Boards run from copies of their credentials, as they were when they were enrolled: what an operator's folder gets
    later is not on a board's card.
    """

    def __init__(self, hardened: HardenedFleet, folder: Path) -> None:
        self.hardened, self.folder = hardened, folder
        self.root = hardened.folder.broker.parent
        for board in ("b1", "b2"):
            shutil.copytree(hardened.folder.credentials(board), folder / "cards" / board)
        self.collector = Collector(hardened.address("monitor"), fleet="home", history_path=None)

    def board(self, name: str) -> Program:
        """A board with its card."""
        flags = ("--telemetry-period-s", "0.3", "--state", str(self.folder / "boards"))
        config = str(self.folder / "cards" / name / "edgerl.toml")
        return Program(self.folder / f"{name}.log", "edge_actor", "--config", config, *flags)

    def learner(self, *flags: str) -> Program:
        """The learner, with what is in its folder now."""
        config = str(self.hardened.folder.credentials("learner") / "edgerl.toml")
        output = ("--state", str(self.folder / "state"), "--report", str(self.folder / "report.json"))
        always = ("--config", config, *output, "--evaluation-episodes", "0", "--checkpoint-every-s", "0.5")
        return Program(self.folder / "learner.log", "cloud_learner", *always, *flags)

    def edgerl(self, *arguments: str) -> str:
        """What the operator types; returns what it says."""
        command = [sys.executable, "-c", "from edgerl.cli import main; main()", *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def signer(self, role: str) -> Signer:
        """A role's key, and the keyring beside it."""
        folder = self.hardened.folder.credentials(role)
        return Signer(PrivateKey.load(folder / "signing.key"), (folder / "keyring").read_bytes())

    def told(self, board: str) -> Telemetry | None:
        """What a board last said."""
        views = self.collector.snapshot().boards
        return next((view.telemetry for view in views if view.board_id == board), None)

    def counted(self, board: str, name: str) -> int:
        """A counter of a board."""
        return told.counters.get(name, 0) if (told := self.told(board)) else 0

    def steps(self, board: str) -> int:
        """Environment steps of this start of a board, of all runs."""
        return sum(run.env_steps for run in told.runs.values()) if (told := self.told(board)) else 0

    def run_of(self, board: str) -> str:
        """The run in which a board acts."""
        return told.run_id if (told := self.told(board)) else ""
