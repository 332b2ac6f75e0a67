"""F5 to F8: policies that are damaged, unsound, deadly or bad, on a real board: the one before goes on acting."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hooked import CHECKER, WORKER, Hook
from teacher import Teacher, policy_file, python_path

from compressor import Precision
from edgerl.broker import RunningBroker
from fleet_protocol.codec import decode, encode
from fleet_protocol.messages import Frame
from fleet_protocol.signing import seal_frame

__all__ = ["python_path"]

SEGFAULT: Final = "os.kill(os.getpid(), signal.SIGSEGV)"
SPIN: Final = "while True: pass"
SLEEP: Final = "time.sleep(10_000)"
DYNAMIC: Final[dict[str, Any]] = {"precision": Precision.INT8_DYNAMIC, "hidden": 512, "normalised": True}
SLOW: Final = "seat, policy = arguments[:2]; infer = policy.infer; policy.infer = lambda: (time.sleep(0.05), infer())"


@pytest.fixture
def teacher(
    python_path: Path, mosquitto: RunningBroker, fleet_name: str, wait_until: Callable[..., None]
) -> Iterator[Teacher]:
    with Teacher(python_path, mosquitto, fleet_name, wait_until) as teaching:
        yield teaching


@pytest.fixture
def far_teacher(
    python_path: Path, mosquitto: RunningBroker, fleet_name: str, wait_until: Callable[..., None]
) -> Iterator[Teacher]:
    with Teacher(python_path, mosquitto, fleet_name, wait_until, far=True) as teaching:
        yield teaching


@pytest.fixture
def hook(python_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hook:
    return Hook(python_path, monkeypatch)


def damaged_frames(version: int) -> dict[str, bytes]:
    """A sound frame, damaged on its way in each class of its bytes; by the counter of its refusal."""
    whole = seal_frame(policy_file(version), kind="policy", version=version, run_id="r")
    frame = decode(whole, Frame)

    def flipped(position: int) -> bytes:
        body = frame.body[:position] + bytes([frame.body[position] ^ 1]) + frame.body[position + 1 :]
        return encode(Frame(header=frame.header, signature=b"", body=body))

    weights = frame.body.index(np.float32(-100).tobytes())
    return {
        "its first half": whole[: len(whole) // 2],
        "without its last byte": whole[:-1],
        "a bit of the file's header": flipped(5),
        "a bit of the file's metadata": flipped(frame.body.index(b"policy_version")),
        "a bit of a weight": flipped(weights),
        "an empty body": encode(Frame(header=frame.header, signature=b"", body=b"")),
        "a body too short": encode(Frame(header=frame.header, signature=b"", body=frame.body[:-1])),
        "a body of another policy": encode(Frame(header=frame.header, signature=b"", body=policy_file(version + 1))),
        "too large": seal_frame(bytes(200_000), kind="policy", version=version, run_id="r"),
    }


def test_F5_damaged_policies_are_refused_before_they_are_parsed_and_counted_by_reason(teacher: Teacher):
    reasons = ("policy_undecodable", "policy_hash", "policy_size", "policy_too_large")
    with teacher.act("--policy-bytes", "100000") as agent:
        teacher.publish(1)
        teacher.wait_until_acting(1)
        frames = damaged_frames(2)
        for frame in frames.values():
            teacher.send_policy(frame)
        teacher.send_policy(teacher.frame(3))
        teacher.wait_until_acting(3)
        teacher.wait_for_count("policy_hash", 4)
        counts = {reason: teacher.count(reason) for reason in reasons}
        assert sum(counts.values()) == len(frames), counts
        assert (teacher.count("policies_refused"), teacher.count("worker_restarts")) == (0, 0)
    assert "Traceback" not in agent.said()


def rewritten(model: bytes, change: Callable[[schema.ModelT], None]) -> bytes:
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    change(parsed)
    builder = flatbuffers.Builder(len(model))
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def with_operator(code: int) -> Callable[[schema.ModelT], None]:
    def change(model: schema.ModelT) -> None:
        model.operatorCodes[0].builtinCode = code
        model.operatorCodes[0].deprecatedBuiltinCode = min(code, 127)

    return change


def as_custom(model: schema.ModelT) -> None:
    with_operator(32)(model)
    model.operatorCodes[0].customCode = b"FlexEverything"


def with_wide_observation(model: schema.ModelT) -> None:
    (index,) = model.subgraphs[0].inputs
    model.subgraphs[0].tensors[index].shape = [1, 3]
    model.subgraphs[0].tensors[index].shapeSignature = [-1, 3]


def with_scale(scale: float) -> Callable[[schema.ModelT], None]:
    def change(model: schema.ModelT) -> None:
        quantized = next(t for t in model.subgraphs[0].tensors if t.quantization is not None)
        quantized.quantization.scale = np.full(len(quantized.quantization.scale), scale, np.float32)

    return change


def with_bad_index(model: schema.ModelT) -> None:
    model.subgraphs[0].operators[0].inputs = [9999, 1, 2]


def with_huge_shape(model: schema.ModelT) -> None:
    index = model.subgraphs[0].operators[0].outputs[0]
    model.subgraphs[0].tensors[index].shape = [1, 1 << 30]
    model.subgraphs[0].tensors[index].shapeSignature = [-1, 1 << 30]


UNSOUND: Final[dict[str, Callable[[int], tuple[str, bytes]]]] = {
    "an operator that is not needed": lambda v: ("operator", rewritten(policy_file(v), with_operator(25))),
    "an operator of somebody else": lambda v: ("operator", rewritten(policy_file(v), as_custom)),
    "another input shape": lambda v: ("shape", rewritten(policy_file(v), with_wide_observation)),
    "a tensor that is not there": lambda v: ("operator", rewritten(policy_file(v), with_bad_index)),
    "a tensor of a gigabyte": lambda v: ("tensor", rewritten(policy_file(v), with_huge_shape)),
    "float32 where int8 is promised": lambda v: ("recipe", policy_file(v, recipe="int8-full")),
    "a scale of 0": lambda v: (
        "scale",
        rewritten(policy_file(v, precision=Precision.INT8_DYNAMIC, hidden=512), with_scale(0.0)),
    ),
    "another version inside": lambda v: ("metadata", policy_file(v + 1)),
    "bytes that are no file": lambda v: ("file", bytes([v]) * 1000),
    "half of a file": lambda v: ("file", policy_file(v)[: len(policy_file(v)) // 2]),
    "logits that are not finite": lambda v: ("nan", policy_file(v, wrong="nan", beyond=-3e38)),
    "one action and never another": lambda v: ("saturated", policy_file(v, wrong="saturated", beyond=-1e4)),
}


def test_F6_valid_frames_of_unsound_policies_are_refused_by_the_checker_with_a_reason_each(teacher: Teacher):
    with teacher.act() as agent:
        teacher.publish(1)
        teacher.wait_until_acting(1)
        (worker,) = agent.children("edge_actor.worker")
        expected: dict[str, int] = {}
        for version, (name, make) in enumerate(UNSOUND.items(), 2):
            reason, model = make(version)
            expected[reason] = expected.get(reason, 0) + 1
            teacher.publish(version, model)
            teacher.wait_for_count("policies_refused", version - 1)
            assert teacher.count(f"check_{reason}") == expected[reason], (name, teacher.told())
        teacher.publish(99)
        teacher.wait_until_acting(99)
        assert agent.children("edge_actor.worker") == [worker]
        assert (teacher.count("worker_restarts"), teacher.count("checker_restarts")) == (0, 0)
    assert "Traceback" not in agent.said()


@pytest.mark.parametrize(
    ("action", "reason"), [(SEGFAULT, "crash"), (SPIN, "hang"), pytest.param(SLEEP, "hang", marks=pytest.mark.thorough)]
)
def test_F7_a_policy_that_the_checker_dies_of_is_refused_and_its_hash_is_never_tried_again(
    teacher: Teacher, hook: Hook, action: str, reason: str
):
    hook.set(CHECKER, "edge_actor.policy:Policy.warm_up", "before", action)
    deadly = teacher.frame(2)
    with teacher.act() as agent:
        teacher.publish(1)
        teacher.wait_until_acting(1)
        teacher.wait_until_kept(1)
        hook.armed.touch()
        teacher.send_policy(deadly)
        teacher.wait_for_count(f"check_{reason}")
        hook.clear()
        assert (teacher.count("checker_restarts"), teacher.count("worker_restarts")) == (1, 0)
        assert teacher.acting() == 1
        # The same bytes under a higher version: only the header is new.
        again = seal_frame(decode(deadly, Frame).body, kind="policy", version=3, run_id="r")
        teacher.send_policy(again)
        teacher.wait_for_count("policy_quarantined")
        agent.kill()
    with teacher.act() as agent:
        teacher.wait_for_count("policy_quarantined")  # the broker has retained it
        teacher.forget_actions()
        teacher.wait_until_acting(1)
        teacher.publish(4)
        teacher.wait_until_acting(4)
    assert "Traceback" not in agent.said()


@pytest.mark.parametrize("wrong", ["nan", "saturated"])
def test_F8_a_policy_that_goes_wrong_where_nobody_has_tried_it_gives_way_to_the_last_good_one(
    far_teacher: Teacher, wrong: str
):
    with far_teacher.act() as agent:
        far_teacher.publish(1)
        far_teacher.wait_until_kept(1)
        far_teacher.publish(2, policy_file(2, wrong=wrong))
        far_teacher.wait_for_count(f"probation_{wrong}")
        far_teacher.forget_actions()
        far_teacher.wait_until_acting(1)
        assert far_teacher.count("policies_rolled_back") == 1
        assert (far_teacher.count("policies_refused"), far_teacher.count("worker_restarts")) == (0, 0)
        far_teacher.send_policy(seal_frame(policy_file(2, wrong=wrong), kind="policy", version=3, run_id="r"))
        far_teacher.wait_for_count("policy_quarantined")
        far_teacher.publish(4)
        far_teacher.wait_until_acting(4)
    assert "Traceback" not in agent.said()


def test_F8_a_policy_that_is_far_slower_than_the_one_before_gives_way_to_it(teacher: Teacher, hook: Hook):
    hook.set(WORKER, "edge_actor.policy_seat:PolicySeat.take", "before", SLOW)
    with teacher.act() as agent:
        teacher.publish(1)
        teacher.wait_until_kept(1)
        hook.armed.touch()
        teacher.publish(2)
        teacher.wait_for_count("probation_slow")
        hook.clear()
        teacher.forget_actions()
        teacher.wait_until_acting(1)
        assert (teacher.count("policies_rolled_back"), teacher.count("worker_restarts")) == (1, 0)
    assert "Traceback" not in agent.said()


def test_F8_with_nothing_to_go_back_to_a_board_waits_for_the_next_policy(far_teacher: Teacher):
    with far_teacher.act() as agent:
        far_teacher.publish(1, policy_file(1, wrong="nan"))
        far_teacher.wait_for_count("probation_nan")
        assert far_teacher.actions() == b""  # not one action was drawn from it
        far_teacher.publish(2)
        far_teacher.wait_until_acting(2)
        assert far_teacher.count("worker_restarts") == 0
    assert "Traceback" not in agent.said()


def without_an_input(model: schema.ModelT) -> None:
    """A subtraction of nothing: ai-edge-litert 2.3 dies of it."""
    operator = model.subgraphs[0].operators[0]
    operator.inputs = [int(operator.inputs[0]), -1]


def test_F7_a_file_that_the_interpreter_dies_of_is_refused_unloaded_and_kills_only_the_checker_if_it_were_loaded(
    teacher: Teacher, hook: Hook
):
    blind = "type(arguments[0])._results = lambda self, operator, known: set(range(1000))"
    hook.set(CHECKER, "edge_actor.policy_inspection:PolicyInspection.__init__", "before", blind)
    with teacher.act() as agent:
        teacher.publish(1)
        teacher.wait_until_kept(1)
        teacher.publish(2, rewritten(policy_file(2, **DYNAMIC), without_an_input))
        teacher.wait_for_count("check_operator")
        assert teacher.count("checker_restarts") == 0
        hook.armed.touch()
        teacher.publish(3, rewritten(policy_file(3, **DYNAMIC), without_an_input))
        teacher.wait_for_count("check_crash")
        hook.clear()
        assert (teacher.count("checker_restarts"), teacher.count("worker_restarts")) == (1, 0)
        assert teacher.acting() == 1
        teacher.publish(4)
        teacher.wait_until_acting(4)
    assert f"the checker died of it (status -{signal.SIGSEGV})" in agent.said()
    assert "Traceback" not in agent.said()
