"""A million mutated payloads against all that reads them: taken or refused by name, at no cost of memory (F25)."""

import random
from collections import Counter
from collections.abc import Callable

import msgspec
import numpy as np
import psutil

from cloud_learner.board_book import BoardBook
from cloud_learner.delivery_ledger import DeliveryLedger
from cloud_learner.intake import Intake
from cloud_learner.trajectory_queue import TrajectoryQueue
from edge_actor.policy_file import BadPolicyFile, read_metadata
from fleet_protocol import messages
from fleet_protocol.codec import BadMessage, decode, encode
from fleet_protocol.messages import (
    Ack,
    AtRest,
    Birth,
    CommandReply,
    Evaluate,
    LearnerReport,
    RunSpec,
    SketchState,
    Telemetry,
    TrajectoryMessage,
)
from fleet_protocol.signing import FrameRefused, open_frame, seal_frame
from fleet_protocol.spaces import BoxSpec, DiscreteSpec
from fleet_protocol.topics import TopicAddress
from fleet_protocol.trajectory import Trajectory, pack_trajectory

COUNT = 1_000_000
SPACES = (BoxSpec(shape=(3,), dtype="float32"), DiscreteSpec(n=3))
RUN = RunSpec(run_id="r", generation=1, env_id="X", unroll_length=4, copies=2)
NASTY = [
    b"\x00",
    b"\xff",
    b"\xc1",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x91" * 90,
]

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
    report = LearnerReport(run_id="r", generation=1, env_id="X", state="learning", versions={"all": 3}, heartbeat_s=1.0)
    frame = seal_frame(encode(RUN), kind="run", version=1, run_id="r")
    return {
        "trajectory": (encode(body), taken("trajectory")),
        "telemetry": (encode(telemetry), taken("telemetry")),
        "status": (encode(birth), taken("status")),
        "reply": (encode(reply), taken("reply")),
        "ack": (encode(Ack(boot_id="x", finished=[(0, 3), (5, 9)])), lambda payload: decode(payload, Ack)),
        "learner": (encode(report), lambda payload: decode(payload, LearnerReport)),
        "run": (frame, lambda payload: open_frame(payload, kind="run", unsigned_allowed=True)),
        "command": (
            encode(Evaluate(policy_version=1, episodes=2)),
            lambda payload: decode(payload, messages.Command),
        ),
        "policy file": (b"\x1c\x00\x00\x00TFL3" + bytes(range(200)), read_metadata),
    }


def mutated(payload: bytes, rng: random.Random) -> bytes:
    mutant = bytearray(payload)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(mutant) + 1)
        match rng.randrange(6):
            case 0 if mutant:
                mutant[at - 1] ^= 1 << rng.randrange(8)
            case 1:
                mutant[at:at] = rng.choice(NASTY)
            case 2:
                del mutant[at : at + rng.randrange(1, 9)]
            case 3:
                mutant[at : at + 4] = rng.randbytes(4)
            case 4:
                mutant[at:at] = mutant[: rng.randrange(1, 20)]
            case _:
                del mutant[at:]
    return bytes(mutant)


def test_mutants_are_taken_or_refused_by_name_and_cost_no_memory():
    targets, rng = make_targets(), random.Random(5)
    for payload, target in (made for name, made in targets.items() if name != "policy file"):
        target(payload)
    outcomes: Counter[str] = Counter()
    process, names = psutil.Process(), list(targets)
    before = 0
    for number in range(COUNT):
        if number == COUNT // 10:
            before = process.memory_info().rss
        name = names[number % len(names)]
        payload, target = targets[name]
        try:
            target(mutated(payload, rng))
        except (BadMessage, FrameRefused, BadPolicyFile):
            outcomes["refused"] += 1
        else:
            outcomes["taken"] += 1
    assert outcomes.total() == COUNT
    assert outcomes["refused"] > COUNT / 3
    assert process.memory_info().rss - before < 50e6


def test_a_valid_struct_of_every_kind_survives_being_read_as_every_other():
    kinds = [
        found for found in vars(messages).values() if isinstance(found, type) and issubclass(found, msgspec.Struct)
    ]
    payloads = [payload for payload, _ in make_targets().values()]
    for payload in payloads:
        for kind in kinds:
            try:
                decode(payload, kind)
            except BadMessage:
                continue
