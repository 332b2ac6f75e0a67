"""The accounts of a fleet, kept by somebody who only listens: what was acked, and what boards say they have.

The claim of the delivery contract (D2-D4) that scenarios prove with it: what was acked is learned, refused with a
reason, or in the lost window that the report states; nothing is learned twice in the weights that survive; and
learner, boards and wire give the same numbers.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from fleet_processes import learner, read_report

from cloud_learner.checkpoints import StateFolder
from cloud_learner.saved_run import SavedRun
from fleet_monitor.collector import Collector
from fleet_protocol.address import BrokerAddress
from fleet_protocol.codec import decode
from fleet_protocol.messages import Ack, RunCounters
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.sequences import SequenceSet
from fleet_protocol.signing import open_frame
from fleet_protocol.topics import FleetTopics

WaitUntil = Callable[..., None]

PATIENT = ("--max-age-s", "3600", "--max-policy-lag", "1000000")
"""Flags of a learner that refuses no window for its age: then every difference is a fault's."""
CLOCKED = (*PATIENT, "--control-hz", "100", "--unroll-length", "8", "--batch-windows", "8")
"""The same of a run whose boards never wait: 12.5 windows a second and board, whatever becomes of them."""


class Accounts:
    """Listens on a broker from before the first ack; a context manager.

    Attributes:
        acked: What the learner has acked, by (board id, boot id), in all of its lives.
        versions: Policy versions, in the order in which they were published.
    """

    def __init__(self, address: BrokerAddress, fleet: str) -> None:
        self._address = address
        self._fleet = fleet
        self._topics = FleetTopics(fleet)
        self.acked: defaultdict[tuple[str, str], SequenceSet] = defaultdict(SequenceSet)
        self.versions: list[int] = []
        self.collector = Collector(address, fleet=fleet, history_path=None)
        self._connection = MqttConnection(
            address,
            client_id="witness",
            subscriptions=[
                Subscription(self._topics.down("+", "ack"), 1, self._hear_ack),
                Subscription(self._topics.policy("+"), 1, self._hear_policy),
            ],
        )

    def __enter__(self) -> Self:
        self._connection.start()
        self.collector.__enter__()
        self._connection.wait_connected(15)
        self.collector.wait_connected(15)
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()
        self.collector.__exit__(*exception)

    def count_acked(self) -> int:
        """Windows that were acked, each counted once."""
        return sum(map(len, list(self.acked.values())))

    def count_acked_of(self, board_id: str) -> int:
        """The same, of one board."""
        return sum(len(seqs) for (board, _), seqs in list(self.acked.items()) if board == board_id)

    def run_id(self) -> str:
        """What the learner calls its run."""
        report = self.collector.snapshot().learner
        assert report is not None
        return report.run_id

    def acting_version_of(self, board_id: str) -> int:
        """The version that a board says to act with; 0 where it says nothing."""
        boards = self.collector.snapshot().boards
        return max((b.telemetry.policy_version for b in boards if b.board_id == board_id and b.telemetry), default=0)

    def has_holes(self) -> bool:
        """Whether a window waits that is older than one that was acked."""
        return any(len(seqs.ranges()) > 1 or seqs.lowest != 0 for seqs in list(self.acked.values()))

    def counter(self, name: str) -> int:
        """One counter of all boards together."""
        boards = self.collector.snapshot().boards
        return sum(board.telemetry.counters.get(name, 0) for board in boards if board.telemetry)

    def boards(self) -> Counter[str]:
        """What all boards together say of their windows, of this boot and of all runs."""
        totals: Counter[str] = Counter()
        for board in self.collector.snapshot().boards:
            for run in board.telemetry.runs.values() if board.telemetry else ():
                totals.update(_as_counter(run))
        return totals

    def close(
        self,
        folder: Path,
        wait_until: WaitUntil,
        *flags: str,
        through: BrokerAddress | None = None,
        heard_all: bool = True,
    ) -> dict[str, Any]:
        """Have one more learner bring the boards to rest, and check its report against the wire and the boards.

        A learner that is asked to end waits a second for each board; one whose time is over waits as long as it takes.

        Args:
            folder: The learner's.
            wait_until: Of the test.
            flags: Of the learner.
            through: Where the learner finds its broker, when not where we do.
            heard_all: We were never cut off from the broker, so what was acked is known exactly.
        """
        address = through or self._address
        with learner(folder, address, self._fleet, *PATIENT, *flags, "--time-limit-s", "2") as last:
            before = len(last.said())  # the log has the words of those that were before it, too
            assert last.process.wait(240) == 0, last.said()
        said = last.said()[before:]
        assert "did not come to rest" not in said, said
        assert "Traceback" not in said, said
        report = read_report(folder)
        self.check(folder, report, wait_until, heard_all=heard_all)
        return report

    def check(self, folder: Path, report: dict[str, Any], wait_until: WaitUntil, *, heard_all: bool = True) -> None:
        """Check a report against the checkpoint, the wire and the boards, which are at rest."""
        windows = report["trajectories"]
        assert windows["add_up"], windows
        saved = SavedRun.load(StateFolder(folder / "state"))
        assert saved is not None
        steps_per_window = saved.run.unroll_length * (1 if saved.run.control_hz else saved.run.copies)
        assert report["env_steps"] == windows["learned"] * steps_per_window  # each was used once
        marks = _marks(saved)
        assert sum(map(len, marks.values())) == windows["learned"] + windows["refused"]
        totals = {
            "produced": windows["produced"],
            "acked": self.count_acked(),
            "dropped": sum(windows["dropped"].values()) - windows["refused"],
        }
        if heard_all:
            # What was acked is learned, refused, or lost, and nothing else is: the lost window is exact.
            lost = sum(len(seqs) - seqs.overlap(marks[boot]) for boot, seqs in self.acked.items())
            assert windows["lost_window"] == lost
        else:
            totals["acked"] = self.boards()["acked"]  # our ears were shut at times
            assert totals["acked"] <= windows["learned"] + windows["refused"] + windows["lost_window"]
        # The rest is with the boards: what waits, and what is finished though its ack died on the way.
        totals["in_outbox"] = totals["produced"] - totals["acked"] - totals["dropped"]
        assert totals["in_outbox"] >= windows["in_outbox"]
        wait_until(
            lambda: self.boards() == totals,
            timeout_s=20,
            what=lambda: f"{totals} on the boards' side, which say {dict(self.boards())},",
        )

    def _hear_ack(self, topic: str, payload: bytes) -> None:
        address, ack = self._topics.parse(topic), decode(payload, Ack)
        assert address is not None
        seqs = self.acked[address.subject, ack.boot_id]
        for first, last in ack.finished:
            seqs.add_range(first, last)

    def _hear_policy(self, _topic: str, payload: bytes) -> None:
        header, _ = open_frame(payload, kind="policy", unsigned_allowed=True)
        if header.version not in self.versions[-1:]:  # retained again on a reconnect
            self.versions.append(header.version)


def _marks(saved: SavedRun) -> defaultdict[tuple[str, str], SequenceSet]:
    """The windows of each boot that a checkpoint calls learned or refused."""
    marks: defaultdict[tuple[str, str], SequenceSet] = defaultdict(SequenceSet)
    for boot in saved.ledger.state()["boots"]:
        for first, last in [*boot["learned"], *(range_ for ranges in boot["refused"].values() for range_ in ranges)]:
            marks[boot["board_id"], boot["boot_id"]].add_range(first, last)
    return marks


def _as_counter(run: RunCounters) -> Counter[str]:
    return Counter(produced=run.produced, acked=run.acked, dropped=sum(run.dropped.values()), in_outbox=run.in_outbox)
