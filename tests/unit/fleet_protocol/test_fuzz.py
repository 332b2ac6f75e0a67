"""A million mutated payloads against all that reads them: taken or refused by name, at no cost of memory (F25)."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import msgspec
import numpy as np
import psutil
from msgspec.structs import replace
from mutants import mutated

from cloud_learner.board_book import BoardBook
from cloud_learner.delivery_ledger import DeliveryLedger
from cloud_learner.intake import Intake
from cloud_learner.trajectory_queue import TrajectoryQueue
from edge_actor.board_link import Arrived
from edge_actor.config import BoardSettings
from edge_actor.policy_file import BadPolicyFile, read_metadata
from edge_actor.supervisor import Supervisor
from edgerl.broker import free_port
from fleet_manager.key_folder import KeyFolder
from fleet_monitor.fleet import Fleet
from fleet_protocol import commands, messages
from fleet_protocol.codec import BadMessage, decode, encode
from fleet_protocol.commands import AtRest, CommandReply, Evaluate
from fleet_protocol.keys import PrivateKey
from fleet_protocol.messages import (
    Ack,
    Birth,
    Death,
    LearnerReport,
    LogLine,
    RunSpec,
    SketchState,
    Telemetry,
    TrajectoryMessage,
)
from fleet_protocol.signing import FrameRefused, Signer, open_frame, seal_frame
from fleet_protocol.spaces import BoxSpec, DiscreteSpec
from fleet_protocol.topics import TopicAddress
from fleet_protocol.trajectory import Trajectory, pack_trajectory

COUNT = 1_000_000
SPACES = (BoxSpec(shape=(3,), dtype="float32"), DiscreteSpec(n=3))
RUN = RunSpec(run_id="r", generation=1, env_id="X", unroll_length=4, copies=2)
REPORT = LearnerReport(run_id="r", generation=1, env_id="X", state="learning", versions={"all": 3}, heartbeat_s=1.0)
NEVER_RIGHT = ("policy file", "board desired", "keyed desired")
"""What is refused even as it is."""

Target = Callable[[bytes], object]


def window() -> bytes:
    falses = np.zeros((4, 2), np.bool_)
    trajectory = Trajectory(
        head="categorical",
        observations=np.ones((5, 2, 3), np.float32),
        actions=np.zeros((4, 2), np.uint8),
        rewards=np.ones((4, 2), np.float32),
        terminated=falses,
        truncated=falses,
        is_first=falses,
        behavior_params=np.ones((4, 2, 2), np.int8),
        policy_versions=np.ones(4, np.int64),
        final_steps=np.empty(0, np.int32),
        final_observations=np.empty((0, 3), np.float32),
    )
    return pack_trajectory(trajectory)


def make_targets() -> dict[str, tuple[bytes, Target]]:
    """What is read, with a payload that is right."""
    intake = Intake(
        RUN,
        ledger=DeliveryLedger(),
        windows=TrajectoryQueue(8),
        book=BoardBook("r", SPACES),
        ack=lambda _boot, _seq: None,
        current_version=lambda: 1,
        max_policy_lag=3,
    )

    def taken(kind: str) -> Target:
        return lambda payload: intake._take(TopicAddress(kind, "b"), payload, 10)

    body = TrajectoryMessage(run_id="r", board_id="b", boot_id="x", seq=1, oldest_seq=0, body=window())
    at_rest = AtRest(run_id="r", produced=[(0, 9)], outbox=[], dropped={"stale": [(2, 3)]})
    reply = CommandReply(board_id="b", boot_id="x", issuer="learner", counter=1, result=at_rest)
    sketch = SketchState(count=2, total=3.0, minimum=1.0, maximum=2.0, indices=[0, 35], counts=[1, 1])
    telemetry = Telemetry(board_id="b", boot_id="x", uptime_s=1.0, sketches={"step_us": sketch}, counters={"a": 1})
    birth = Birth(
        board_id="b",
        boot_id="x",
        session_id="s",
        software="t",
        run_id="r",
        observation_space=SPACES[0],
        action_space=SPACES[1],
    )
    frame = seal_frame(encode(RUN), kind="run", version=1, run_id="r")
    return {
        "trajectory": (encode(body), taken("trajectory")),
        "telemetry": (encode(telemetry), taken("telemetry")),
        "status": (encode(birth), taken("status")),
        "reply": (encode(reply), taken("reply")),
        "ack": (encode(Ack(boot_id="x", finished=[(0, 3), (5, 9)])), lambda payload: decode(payload, Ack)),
        "learner": (encode(REPORT), lambda payload: decode(payload, LearnerReport)),
        "run": (frame, lambda payload: open_frame(payload, kind="run", unsigned_allowed=True)),
        "command": (
            encode(Evaluate(policy_version=1, episodes=2)),
            lambda payload: decode(payload, commands.Command),
        ),
        "policy file": (b"\x1c\x00\x00\x00TFL3" + bytes(range(200)), read_metadata),
    }


@contextmanager
def board_targets(folder: Path, *, signed: bool) -> Iterator[dict[str, tuple[bytes, Target]]]:
    """Everything that a board hears, with and without a root key."""
    signer = None
    settings = BoardSettings(state=str(folder / "state"), board="b", broker=f"127.0.0.1:{free_port()}")
    if signed:
        KeyFolder(folder / "keys").init(fleet="demo", days=1.0)
        signer = Signer(PrivateKey.load(folder / "keys/learner.key"), (folder / "keys/keyring").read_bytes())
        settings = replace(settings, root_key=str(folder / "keys/root.pub"))
    supervisor = Supervisor(settings, board_id="b")
    counters = supervisor._diary.counters

    def refused() -> int:
        return counters.total() - counters["commands_accepted"] - counters["resubscribed"]

    def heard(kind: str, subject: str) -> Target:
        def take(payload: bytes) -> None:
            before = refused()
            supervisor._handle(Arrived(TopicAddress(kind, subject), payload))
            if refused() > before:
                raise BadMessage("counted")

        return take

    def frame(body: bytes, kind: str, target: str = "all") -> bytes:
        return seal_frame(body, kind=kind, version=1, run_id="r", target=target, signer=signer)

    # A run of mutants must not start workers: this is about what is heard.
    with patch.object(supervisor._workforce, "_start_worker"):
        yield {
            "run": (frame(encode(RUN), "run"), heard("run", "")),
            "policy": (frame(bytes(200), "policy"), heard("policy", "all")),
            "command": (frame(encode(Evaluate(policy_version=1, episodes=2)), "command", "b"), heard("command", "b")),
            "ack": (encode(Ack(boot_id="x", finished=[(0, 3), (5, 9)])), heard("ack", "b")),
            "status": (encode(Death(board_id="b", boot_id="x", session_id="s", reason="lost")), heard("status", "b")),
            "learner": (encode(REPORT), heard("learner", "")),
            "desired": (frame(b"", "desired", "b"), heard("desired", "b")),
        }
    supervisor._keeper.close()
    supervisor._inbox.close()


def monitor_targets(fleet: Fleet, payloads: dict[str, bytes]) -> dict[str, tuple[bytes, Target]]:
    """Everything that a monitor hears."""

    def heard(kind: str) -> Target:
        def take(payload: bytes) -> None:
            before = sum(fleet._ignored.values())
            fleet.take(TopicAddress(kind, "b"), payload)
            if sum(fleet._ignored.values()) > before:
                raise BadMessage("counted")

        return take

    line = encode(LogLine(level="info", at=1.0, text="a line"))
    return {kind: (payload, heard(kind)) for kind, payload in {**payloads, "log": line}.items()}


def test_mutants_are_taken_or_refused_by_name_and_cost_no_memory(tmp_path: Path):
    targets, rng = make_targets(), random.Random(5)
    heard_by_monitor = {kind: targets[kind][0] for kind in ("learner", "status", "telemetry")}
    with board_targets(tmp_path / "0", signed=False) as plain, board_targets(tmp_path / "1", signed=True) as signed:
        for who, more in (("board", plain), ("keyed", signed), ("monitor", monitor_targets(Fleet(), heard_by_monitor))):
            targets |= {f"{who} {kind}": target for kind, target in more.items()}
        for payload, target in (made for name, made in targets.items() if name not in NEVER_RIGHT):
            target(payload)
        outcomes, grown = bombarded(targets, rng)
    assert outcomes.total() == COUNT
    assert outcomes["refused"] > COUNT / 3
    assert grown < 50e6


def bombarded(targets: dict[str, tuple[bytes, Target]], rng: random.Random) -> tuple[Counter[str], int]:
    """What became of all mutants, and how many bytes the process grew by."""
    outcomes: Counter[str] = Counter()
    process, names, before = psutil.Process(), list(targets), 0
    for number in range(COUNT):
        if number == COUNT // 10:
            before = process.memory_info().rss
        payload, target = targets[names[number % len(names)]]
        try:
            target(mutated(payload, rng))
        except (BadMessage, FrameRefused, BadPolicyFile):
            outcomes["refused"] += 1
        else:
            outcomes["taken"] += 1
    return outcomes, process.memory_info().rss - before


def test_a_valid_struct_of_every_kind_survives_being_read_as_every_other():
    kinds = [
        found
        for found in (vars(messages) | vars(commands)).values()
        if isinstance(found, type) and issubclass(found, msgspec.Struct)
    ]
    payloads = [payload for payload, _ in make_targets().values()]
    for payload in payloads:
        for kind in kinds:
            try:
                decode(payload, kind)
            except BadMessage:
                continue
