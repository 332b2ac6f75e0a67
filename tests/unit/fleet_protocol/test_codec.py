"""The codec makes a typed message of bytes, or says BadMessage; nothing else, whatever the bytes are."""

import tracemalloc
from contextlib import suppress

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_protocol.codec import BadMessage, decode, encode
from fleet_protocol.commands import AtRest, Bench, Command, CommandReply, Evaluate, EvaluationResult
from fleet_protocol.messages import (
    Ack,
    Birth,
    Death,
    LearnerReport,
    PolicyLag,
    Problem,
    RunCounters,
    RunSpec,
    SketchState,
    Status,
    Telemetry,
    TrajectoryMessage,
)
from fleet_protocol.spaces import BoxSpec, DiscreteSpec

BIRTH = Birth(
    board_id="b",
    boot_id="boot",
    session_id="s",
    software="x",
    observation_space=BoxSpec(shape=(4,), dtype="float32"),
    action_space=DiscreteSpec(n=2),
    problem=Problem(code=8, sentence="no"),
)
MESSAGES = [
    BIRTH,
    Death(board_id="b", boot_id="boot", session_id="s", reason="lost"),
    RunSpec(run_id="r", generation=1, env_id="CartPole-v1", unroll_length=32, env_kwargs={"a": [1, "x", None, True]}),
    LearnerReport(
        run_id="r",
        generation=2,
        env_id="X",
        state="learning",
        versions={"all": 7},
        heartbeat_s=1.0,
        policy_lag=PolicyLag(mean=1.5, p95=2.0, max=3),
    ),
    Ack(boot_id="boot", finished=[(0, 3), (7, 7)]),
    Evaluate(policy_version=3, episodes=100),
    Bench(model=b"\x00\xff", copies=2),
    TrajectoryMessage(run_id="r", board_id="b", boot_id="boot", seq=5, oldest_seq=2, body=b"\x00\xff"),
    Telemetry(
        board_id="b",
        boot_id="boot",
        uptime_s=1.5,
        runs={"r": RunCounters(produced=3, acked=1, dropped={"stale": 1}, in_outbox=1)},
        sketches={"step_us": SketchState(count=1, total=2.0, minimum=2.0, maximum=2.0, indices=[35], counts=[1])},
    ),
    CommandReply(
        board_id="b",
        boot_id="boot",
        issuer="l",
        counter=4,
        result=AtRest(run_id="r", produced=[(0, 9)], outbox=[], dropped={"stale": [(2, 3)]}),
    ),
    CommandReply(
        board_id="b",
        boot_id="boot",
        issuer="l",
        counter=5,
        result=EvaluationResult(policy_version=3, returns=[1.0], lengths=[4]),
    ),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_went(message: msgspec.Struct):
    assert message == decode(encode(message), type(message))


def test_a_union_is_told_by_its_tag():
    assert decode(encode(BIRTH), Status) == BIRTH
    assert decode(encode(Evaluate(policy_version=1, episodes=2)), Command) == Evaluate(policy_version=1, episodes=2)


def test_unknown_fields_of_a_newer_version_are_ignored():
    plain = msgpack.unpackb(encode(MESSAGES[4])) | {"colour": "red"}
    assert decode(msgpack.packb(plain), Ack) == MESSAGES[4]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\xde\xad\xbe\xef",
        b"\x91" * 5000,  # deep
        b"\xdd\xff\xff\xff\xff",  # an array of four thousand million items in five bytes
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x81\xa1a\xc7\x05\x01aaaaa",  # an extension type
        b"\x81\x90\x01",  # a key that is no string
        msgpack.packb({"boot_id": "b", "finished": [[1]]}),
        msgpack.packb({"boot_id": 7, "finished": []}),
        msgpack.packb({"boot_id": "x" * 64, "finished": []}),
        msgpack.packb({"boot_id": "b"}),
        msgpack.packb([1, 2]),
        encode(MESSAGES[4])[:-1],
        encode(MESSAGES[4]) + b"\x00",
    ],
)
def test_what_is_no_such_message_is_a_bad_message(payload: bytes):
    with pytest.raises(BadMessage):
        decode(payload, Ack)


def test_a_payload_over_the_limit_is_refused_unread():
    with pytest.raises(BadMessage, match="at most 10 bytes, got 11"):
        decode(b"\xc1" * 11, Ack, max_bytes=10)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_make_a_message_or_a_bad_message(payload: bytes):
    for message_type in (Ack, RunSpec, Telemetry, TrajectoryMessage, Status, CommandReply):
        try:
            decode(payload, message_type)
        except BadMessage:
            continue


@given(st.sampled_from(MESSAGES), st.integers(0, 10_000), st.integers(0, 255))
def test_a_flipped_byte_makes_a_message_or_a_bad_message(message: msgspec.Struct, position: int, byte: int):
    payload = bytearray(encode(message))
    payload[position % len(payload)] = byte
    with suppress(BadMessage):
        decode(bytes(payload), type(message))


def test_a_small_payload_cannot_ask_for_much_memory():
    tracemalloc.start()
    for payload in (b"\xdd\x7f\xff\xff\xff", b"\xc6\x7f\xff\xff\xff", b"\xdf\x7f\xff\xff\xff"):
        with pytest.raises(BadMessage):
            decode(payload, Ack)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
