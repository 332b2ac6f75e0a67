"""A policy file is what it says, or is refused with a sentence; no bytes make the board crash."""

import random
import struct
import time
from contextlib import suppress
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st
from msgspec import to_builtins
from policies import make_policy_file

from compressor import CompressionRecipe, Layer, PolicyGraph, Precision, compress
from compressor.run_file import run_model
from edge_actor.policy import Policy
from edge_actor.policy_file import BadPolicyFile, read_metadata
from fleet_protocol.spaces import BoxSpec, DiscreteSpec

MODEL = make_policy_file(policy_version=7)
BOX_OF_TWO = BoxSpec(shape=(2,), dtype="float32")


def make_file(**changes: Any) -> bytes:
    """A sound network of 2 features and 3 logits, whose metadata may say anything."""
    rng = np.random.default_rng(0)
    torso = (Layer(rng.standard_normal((4, 2), np.float32), np.zeros(4, np.float32), "tanh"),)
    heads = {"logits": Layer(rng.standard_normal((3, 4), np.float32), np.zeros(3, np.float32))}
    metadata = {
        "run_id": "r",
        "policy_version": 1,
        "head": "categorical",
        "observation": to_builtins(BOX_OF_TWO),
        "action": to_builtins(DiscreteSpec(n=3)),
    }
    return compress(PolicyGraph(torso, heads), CompressionRecipe(Precision.FLOAT32), metadata=metadata | changes).model


def without_weights(model: bytes) -> bytes:
    """The same file, where the network's first matrix has lost its numbers."""
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    next(tensor for tensor in parsed.subgraphs[0].tensors if tensor.buffer and len(tensor.shape) == 2).buffer = 0
    builder = flatbuffers.Builder(4096)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_a_file_tells_what_it_is_for():
    metadata = Policy(MODEL, copies=1).metadata
    assert (metadata.run_id, metadata.policy_version, metadata.head) == ("r", 7, "categorical")
    assert (metadata.observation, metadata.action) == (BOX_OF_TWO, DiscreteSpec(n=3))
    assert metadata.wire_scale == 0.05


@pytest.mark.parametrize("action", [DiscreteSpec(n=3), BOX_OF_TWO], ids=["categorical", "gaussian"])
@pytest.mark.parametrize("copies", [1, 5])
def test_what_is_held_is_the_interpreters_own_memory(action: DiscreteSpec | BoxSpec, copies: int):
    model = make_policy_file(action=action)
    policy = Policy(model, copies=copies)
    policy.warm_up()
    observation, outputs = policy.observation, policy.outputs
    names = ["logits"] if isinstance(action, DiscreteSpec) else ["mean", "log_std"]
    for seed in range(3):
        expected = np.random.default_rng(seed).standard_normal((copies, 2), np.float32)
        observation[...] = expected
        policy.infer()
        fresh = run_model(model, expected)
        for name, output in zip(names, outputs, strict=True):
            np.testing.assert_array_equal(output, fresh[name])


def test_what_a_sound_file_says_is_accepted():
    Policy(make_file(), copies=2).warm_up()


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "gaussian"},
        {"head": "other"},
        {"head": "categorical", "action": to_builtins(BOX_OF_TWO)},
        {"action": to_builtins(DiscreteSpec(n=4))},
        {"action": {"type": "discrete", "n": 0}},
        {"observation": to_builtins(BoxSpec(shape=(3,), dtype="float32"))},
        {"observation": to_builtins(BoxSpec(shape=(1, 2), dtype="float32"))},
        {"observation": "box"},
        {"policy_version": -1},
        {"policy_version": "one"},
        {"wire_scale": 0.0},
    ],
    ids=str,
)
def test_metadata_that_the_network_belies_is_refused(changes: dict[str, Any]):
    with pytest.raises(BadPolicyFile):
        Policy(make_file(**changes), copies=2)


@pytest.mark.parametrize("written", [b"NaN     ", b"Infinity"])
def test_a_grid_without_a_size_is_refused(written: bytes):
    with pytest.raises(BadPolicyFile):
        Policy(make_file(wire_scale=0.123456).replace(b"0.123456", written), copies=2)


def test_a_network_without_its_weights_is_refused_before_it_acts():
    with pytest.raises(BadPolicyFile, match="runtime"):
        Policy(without_weights(make_file()), copies=2).warm_up()


def test_a_network_whose_outputs_are_not_finite_is_refused():
    graph = PolicyGraph(
        torso=(Layer(np.ones((4, 2), np.float32), np.full(4, 3e38, np.float32), "relu"),),
        heads={"logits": Layer(np.full((3, 4), 3e38, np.float32), np.zeros(3, np.float32))},
    )
    model = compress(graph, CompressionRecipe(Precision.FLOAT32), metadata=read_metadata(make_file())).model
    with pytest.raises(BadPolicyFile, match="not finite"):
        Policy(model, copies=1).warm_up()


@pytest.mark.parametrize(
    "model",
    [b"", b"garbage", b"\0" * 4096, b"\0\0\0\0TFL3", b"\xff" * 4 + b"TFL3" + b"\xff" * 100, MODEL[:-1], MODEL[:100]],
    ids=["empty", "garbage", "zeros", "no root", "far root", "one byte short", "cut"],
)
def test_what_is_no_policy_is_refused(model: bytes):
    with pytest.raises(BadPolicyFile):
        Policy(model, copies=1).warm_up()


def test_a_model_of_somebody_else_is_refused_as_not_ours():
    with pytest.raises(BadPolicyFile, match="not a policy of ours"):
        read_metadata(MODEL.replace(b"edgerl.policy", b"someone.else!"))


def test_metadata_that_claims_to_reach_beyond_the_file_is_refused():
    size_at = MODEL.index(b'{"') - 4
    with pytest.raises(BadPolicyFile, match="outside"):
        read_metadata(MODEL[:size_at] + struct.pack("<I", len(MODEL)) + MODEL[size_at + 4 :])


def test_any_broken_file_is_refused_or_runs():
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        broken = bytearray(MODEL[: rng.randrange(len(MODEL))] if rng.random() < 0.2 else MODEL)
        for _ in range(rng.choice([1, 1, 8]) if broken else 0):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        try:
            Policy(bytes(broken), copies=2).warm_up()
        except BadPolicyFile:
            refused += 1
    assert 150 < refused < 300  # a flipped bit inside a weight breaks nothing that could be seen


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tail: bytes):
    with pytest.raises(BadPolicyFile):
        read_metadata(tail[:4].ljust(4, b"\x10") + b"TFL3" + tail[4:])


@given(st.lists(st.tuples(st.integers(0, len(MODEL) - 1), st.integers(0, 255)), min_size=1, max_size=20))
def test_any_overwritten_file_is_read_or_refused(changes: list[tuple[int, int]]):
    model = bytearray(MODEL)
    for position, value in changes:
        model[position] = value
    with suppress(BadPolicyFile):
        assert isinstance(read_metadata(bytes(model)), dict)


def test_a_million_names_in_one_place_take_no_time():
    """Entries may all point to one huge name: nobody reads them all."""
    entries, name = 100_000, b"x" * 2_000_000
    root, vector = 28, 36
    entry_vtable = vector + 4 + 4 * entries
    entry = entry_vtable + 8
    model = struct.pack("<I4s9H2xiI", root, b"TFL3", 18, 8, *[0] * 6, 4, root - 8, vector - (root + 4))
    model += struct.pack("<I", entries) + b"".join(
        struct.pack("<I", entry - (vector + 4 + 4 * i)) for i in range(entries)
    )
    model += struct.pack("<3H2xiII", 6, 8, 4, entry - entry_vtable, 4, len(name)) + name
    started = time.monotonic()
    with pytest.raises(BadPolicyFile, match="at most"):
        read_metadata(model)
    assert time.monotonic() - started < 3
