"""A policy file is untrusted: it is what its metadata says, or it is refused by name; what failed never runs again."""

import hashlib
import sys
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from policies import make_policy_file, make_shelf

from edge_actor.board_spaces import action_spec, observation_spec
from edge_actor.environments import make_environment
from edge_actor.policy import Policy
from edge_actor.policy_file import BadPolicyFile, read_metadata
from edge_actor.policy_shelf import HeldPolicy
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import FrameHeader
from fleet_protocol.signing import FrameRefused
from fleet_protocol.spaces import BoxSpec, DiscreteSpec

FILE = make_policy_file()
GYMNASIUM_ONLY = ["gymnasium."]


@pytest.mark.parametrize("copies", [1, 5])
def test_a_file_is_loaded_with_what_it_says_of_itself(copies: int):
    policy = Policy(FILE, copies=copies)
    policy.warm_up()
    assert policy.metadata.policy_version == 1
    assert policy.metadata.action == DiscreteSpec(n=3)
    assert policy.observation.shape == (copies, 2)
    assert policy.outputs[0].shape == (copies, 3)


def test_the_views_are_the_interpreters_own_memory():
    policy = Policy(FILE, copies=2)
    policy.observation[...] = [[0.5, -1.0], [2.0, 3.0]]
    policy.infer()
    both = policy.outputs[0].copy()
    alone = Policy(FILE, copies=1)
    for row, observation in enumerate(([0.5, -1.0], [2.0, 3.0])):
        alone.observation[...] = observation
        alone.infer()
        np.testing.assert_allclose(alone.outputs[0][0], both[row], atol=1e-5)


def test_a_gaussian_file_has_means_and_deviations():
    policy = Policy(make_policy_file(action=BoxSpec(shape=(2,), dtype="float32")), copies=3)
    assert [output.shape for output in policy.outputs] == [(3, 2), (3, 2)]


@pytest.mark.parametrize("model", [b"", b"garbage", FILE[:100], FILE[:4] + b"XXXX" + FILE[8:], bytes(1000)])
def test_what_is_no_policy_file_is_refused(model: bytes):
    with pytest.raises(BadPolicyFile):
        Policy(model, copies=1)


@given(st.integers(0, len(FILE) - 1), st.integers(0, 255))
def test_reading_the_metadata_of_a_flipped_file_gives_an_object_or_a_refusal(position: int, byte: int):
    flipped = bytearray(FILE)
    flipped[position] = byte
    with suppress(BadPolicyFile):
        assert isinstance(read_metadata(bytes(flipped)), dict)


@given(st.binary(max_size=300))
def test_reading_the_metadata_of_anything_gives_a_refusal(tail: bytes):
    with suppress(BadPolicyFile):
        read_metadata(b"\x1c\x00\x00\x00TFL3" + tail)


def held(version: int, content: bytes = b"") -> HeldPolicy:
    header = FrameHeader(
        kind="policy",
        issuer="l",
        run_id="r",
        version=version,
        target="all",
        issued_at=0.0,
        expires_at=1.0,
        size=0,
        sha256=hashlib.sha256(content or str(version).encode()).digest(),
    )
    return HeldPolicy(header, b"")


def test_only_a_newer_policy_is_accepted():
    shelf = make_shelf()
    shelf.accept(held(3))
    for version in (2, 3):
        with pytest.raises(FrameRefused) as refused:
            shelf.accept(held(version, b"another"))
        assert refused.value.reason == "not_newer"
    assert shelf.newest is not None
    assert shelf.newest.version == shelf.highest_seen == 3


def test_a_policy_that_failed_brings_back_the_last_good_one_and_is_never_tried_again():
    shelf = make_shelf()
    good, bad = held(1), held(2, b"bad")
    shelf.accept(good)
    shelf.prove(good)
    shelf.accept(bad)
    shelf.quarantine(bad)
    assert shelf.newest is good
    with pytest.raises(FrameRefused) as refused:
        shelf.accept(held(9, b"bad"))
    assert refused.value.reason == "quarantined"
    assert shelf.highest_seen == 9
    shelf.accept(held(10))


def refusal(env_id: str, allowed: list[str] = GYMNASIUM_ONLY) -> ExitCode:
    with pytest.raises(ProgramError) as refused:
        make_environment(env_id, {}, allowed=allowed)
    return refused.value.exit_code


def test_an_environment_is_made_only_from_allowed_code():
    make_environment("CartPole-v1", {}, allowed=GYMNASIUM_ONLY).close()
    assert refusal("Nope-v1") == ExitCode.ENVIRONMENT_UNKNOWN
    assert refusal("CartPole-v1", allowed=["mine."]) == ExitCode.ENVIRONMENT_REFUSED
    assert refusal("gymnasiums.evil:X-v0") == ExitCode.ENVIRONMENT_REFUSED


def test_code_that_is_not_allowed_is_not_even_imported():
    assert "antigravity" not in sys.modules
    assert refusal("antigravity:X-v0") == ExitCode.ENVIRONMENT_REFUSED
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("env_id", "observation", "action"),
    [
        ("CartPole-v1", BoxSpec(shape=(4,), dtype="float32"), DiscreteSpec(n=2)),
        (
            "Pendulum-v1",
            BoxSpec(shape=(3,), dtype="float32"),
            BoxSpec(shape=(1,), dtype="float32", low=[-2.0], high=[2.0]),
        ),
    ],
)
def test_spaces_are_described_as_they_travel(env_id: str, observation: BoxSpec, action: object):
    environment = make_environment(env_id, {}, allowed=GYMNASIUM_ONLY)
    assert observation_spec(environment.observation_space) == observation
    assert action_spec(environment.action_space) == action
    environment.close()
