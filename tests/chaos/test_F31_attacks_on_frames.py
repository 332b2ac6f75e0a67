"""F31: each attack on what a board is told is refused under its own name, on a live board that goes on acting.

The attacker sits on the broker, hears all, replays what it likes, and for some attacks has a key of the fleet too.
There is one root, so the threshold of signatures is one: too few of them is a keyring that this root has not signed.
"""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from fleet_processes import read_report
from msgspec.structs import replace
from signed_fleet import Fleet

from edgerl.broker import RunningBroker
from fleet_protocol.clock import utc_timestamp
from fleet_protocol.codec import MAX_MESSAGE_BYTES, decode, encode
from fleet_protocol.commands import Pause
from fleet_protocol.keyring import KeyGrant, Keyring
from fleet_protocol.keys import PrivateKey
from fleet_protocol.messages import Frame, FrameHeader, RunSpec
from fleet_protocol.mqtt import MqttConnection
from fleet_protocol.signing import KEYRING, Signer, seal_frame

Wait = Callable[..., None]
PROTOCOL: Final = Path(__file__).parents[2] / "docs/protocol.md"


class Attacker:
    """What somebody can make of a fleet's frames, of a key of it, and of the keys of another fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.learner, self.manager = fleet.signer(), fleet.signer(role="manager")
        self.policies = fleet.genuine(fleet.topics.policy("all"))
        (self.run, *_) = fleet.genuine(fleet.topics.run)
        self.run_id = header_of(self.run).run_id
        self.newest = header_of(self.policies[-1]).version

    def seal(self, signer: Signer | None = None, **changes: object) -> bytes:
        """A policy of the fleet's run, a little newer than the newest, with a real key."""
        parts = {"kind": "policy", "version": self.newest + 500, "run_id": self.run_id, "target": "all"}
        return seal_frame(b"TFL3", **(parts | {"signer": signer or self.learner} | changes))  # pyright: ignore[reportArgumentType]

    def with_header(self, **changes: object) -> bytes:
        """A policy whose header says something else, signed again by a real key."""
        frame = decode(self.seal(), Frame)
        header = encode(replace(decode(frame.header, FrameHeader), **changes))
        return encode(replace(frame, header=header, signature=self.learner.key.sign(header)))

    def spec(self, **changes: object) -> RunSpec:
        return replace(decode(self.run.body, RunSpec), **changes)

    def of_fleet(self, name: str, root: PrivateKey | None = None) -> bytes:
        """A policy by a key of its own, which a root (by default the real one) says is a learner's of some fleet."""
        key = PrivateKey()
        grant = KeyGrant(public=key.public, role="learner", kinds=["run", "policy", "command"])
        keyring = encode(Keyring(fleet=name, keys=[grant]))
        signer = Signer(root or PrivateKey.load(self.fleet.folder / "keys/root.key"))
        return self.seal(Signer(key, seal_frame(keyring, kind=KEYRING, version=99, run_id="", signer=signer)))


def header_of(frame: Frame) -> FrameHeader:
    return decode(frame.header, FrameHeader)


# What the attack is; the topic; the counter; the payload.
ATTACKS: Final[list[tuple[str, str, str, Callable[[Attacker], bytes]]]] = [
    ("arbitrary installation: no signature", "policy/all", "policy_unsigned", lambda a: unsigned(a.seal())),
    ("a signature of zeros", "policy/all", "policy_signature", lambda a: signed_by(a.seal(), bytes(64))),
    ("one that another key made", "run", "run_signature", lambda a: signed_by(encode(a.run), a.manager.key.sign(b""))),
    (
        "a key that nobody named",
        "policy/all",
        "policy_unknown_key",
        lambda a: a.seal(Signer(PrivateKey(), a.learner.keyring)),
    ),
    ("a key that may not", "policy/all", "policy_not_allowed", lambda a: a.seal(a.manager)),
    (
        "threshold: another root",
        "policy/all",
        "policy_keyring",
        lambda a: a.of_fleet(a.fleet.name, PrivateKey()),
    ),
    (
        "a learner that plays root",
        "policy/all",
        "policy_keyring",
        lambda a: a.of_fleet(a.fleet.name, PrivateKey.load(a.fleet.folder / "keys/learner.key")),
    ),
    ("no keyring", "policy/all", "policy_keyring", lambda a: a.seal(Signer(a.learner.key))),
    (
        "a keyring of another fleet",
        "policy/all",
        "policy_fleet",
        lambda a: a.of_fleet("other"),
    ),
    ("rollback: the first policy again", "policy/all", "policy_rollback", lambda a: encode(a.policies[0])),
    (
        "rollback: an older run",
        "run",
        "run_rollback",
        lambda a: a.seal(kind="run", version=1),
    ),
    ("freeze: what has expired", "policy/all", "policy_expired", lambda a: a.seal(valid_s=-1.0)),
    (
        "freeze: no expiry",
        "policy/all",
        "policy_expired",
        lambda a: a.with_header(expires_at=float("nan")),
    ),
    ("fast-forward: a version", "policy/all", "policy_fast_forward", lambda a: a.seal(version=a.newest + 10**8)),
    (
        "fast-forward: a time",
        "policy/all",
        "policy_fast_forward",
        lambda a: a.with_header(issued_at=utc_timestamp() + 1e6),
    ),
    (
        "mix-and-match: another body",
        "policy/all",
        "policy_hash",
        lambda a: encode(replace(decode(a.seal(), Frame), body=b"TFL4")),
    ),
    (
        "mix-and-match: a body of another size",
        "policy/all",
        "policy_size",
        lambda a: encode(replace(decode(a.seal(), Frame), body=a.policies[0].body)),
    ),
    ("mix-and-match: a policy for a run", "run", "run_kind", lambda a: a.seal()),
    (
        "mix-and-match: a run under another's name",
        "run",
        "run_mixed",
        lambda a: seal_frame(
            encode(a.spec(env_id="Acrobot-v1")),
            kind="run",
            version=header_of(a.run).version + 1,
            run_id=a.run_id,
            signer=a.learner,
        ),
    ),
    ("wrong target: another group's topic", "policy/other", "policy_target", lambda a: a.seal()),
    ("wrong target: another group", "policy/other", "policy_group", lambda a: a.seal(target="other")),
    (
        "wrong target: another board's command",
        "board/b1/down/command",
        "command_target",
        lambda a: a.seal(kind="command", version=10**13, target="b2"),
    ),
    ("endless data: a run", "run", "run_too_large", lambda a: encode(a.run) + bytes(300_000)),
    (
        "endless data: a command",
        "board/b1/down/command",
        "command_too_large",
        lambda a: a.seal(kind="command", target="b1") + bytes(300_000),
    ),
    ("endless data: a header", "run", "run_undecodable", lambda a: encode(replace(a.run, header=bytes(5000)))),
    ("endless data: a keyring", "run", "run_undecodable", lambda a: encode(replace(a.run, keyring=bytes(20_000)))),
]
PROVEN_BAD: Final = "policy_quarantined"
ELSEWHERE: Final = {"replayed", "revoked_key", "keyring_expired", "policies_refused", "quarantined", "not_newer"}
"""Reasons of the documentation's table that other tests here bring about; the last is a repeat, and no attack."""


def unsigned(payload: bytes) -> bytes:
    return encode(replace(decode(payload, Frame), signature=b"", keyring=b""))


def signed_by(payload: bytes, signature: bytes) -> bytes:
    return encode(replace(decode(payload, Frame), signature=signature))


@pytest.fixture
def fleet(mosquitto: RunningBroker, fleet_name: str, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(mosquitto, fleet_name, tmp_path)
    with made.stranger:
        made.stranger.wait_connected(10)
        yield made


@pytest.mark.everyday
def test_F31_each_attack_is_counted_under_its_own_name_and_the_board_acts_on(fleet: Fleet, wait_until: Wait):
    with fleet.board() as acting, fleet.learner() as learning:
        wait_until(lambda: fleet.steps() > 2000, timeout_s=90, what="the first steps")
        wait_until(lambda: len(fleet.genuine(fleet.topics.policy("all"))) > 3, timeout_s=60, what="some policies")
        attacker, expected = Attacker(fleet), dict[str, int]()
        for attack, topic, counter, make in ATTACKS:
            expected[counter] = expected.get(counter, 0) + 1
            assert fleet.stranger.publish(f"edgerl/1/{fleet.name}/{topic}", make(attacker)), attack
            wait_until(
                lambda name=counter: fleet.counted(name) == expected[name],
                timeout_s=30,
                what=f"{attack}: {counter} {expected[counter]}",
            )
        assert {name: fleet.counted(name) for name in expected} == expected
        assert (fleet.run_id(), fleet.counted("policies_refused")) == (attacker.run_id, 0)
        before, seen = fleet.steps(), fleet.telemetry()
        wait_until(lambda: fleet.steps() > before + 2000, timeout_s=60, what="steps after all attacks")
        wait_until(
            lambda: fleet.telemetry().policy_version > seen.policy_version,  # pyright: ignore[reportOptionalMemberAccess]
            timeout_s=60,
            what="the learner's next policy",
        )
        assert learning.process.poll() is None
    assert read_report(fleet.folder)["trajectories"]["add_up"]
    assert "Traceback" not in acting.said() + learning.said()


def test_F31_every_reason_that_the_protocol_names_is_brought_about_here():
    table = PROTOCOL.read_text(encoding="utf-8").partition("| attack | reason |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[2])}
    assert {counter.partition("_")[2] for _, _, counter, _ in ATTACKS} | ELSEWHERE == named


def test_F31_what_no_broker_lets_pass_ends_its_senders_connection_and_reaches_nobody(fleet: Fleet, wait_until: Wait):
    with fleet.board(), MqttConnection(fleet.address, client_id="flood", subscriptions=[]) as flood:
        wait_until(lambda: fleet.telemetry() is not None, timeout_s=60, what="the board")
        flood.wait_connected(10)
        flood.publish(fleet.topics.policy("all"), bytes(MAX_MESSAGE_BYTES + 1000))
        wait_until(lambda: flood.connects > 1 or not flood.is_connected, timeout_s=30, what="the end of the connection")
        fleet.say(fleet.topics.policy("all"), b"TFL3", None, kind="policy")  # of one topic, the next message
        wait_until(lambda: fleet.counted("policy_unsigned") == 1, timeout_s=30, what="the next one's counter")
        assert fleet.counted("policy_too_large") == 0


def test_F31_a_command_counts_once_and_keys_that_expire_rotate_or_are_revoked_count_no_more(
    fleet: Fleet, wait_until: Wait
):
    topics, command = fleet.topics, fleet.topics.down("b1", "command")
    with fleet.board() as acting:
        wait_until(lambda: fleet.telemetry() is not None, timeout_s=60, what="the board")

        def say(signer: Signer, version: int) -> bytes:
            body = encode(Pause(run_id="r"))
            frame = seal_frame(body, kind="command", version=version, run_id="r", target="b1", signer=signer)
            assert fleet.stranger.publish(command, frame)
            return frame

        def counted(name: str, times: int) -> None:
            wait_until(lambda: fleet.counted(name) == times, timeout_s=30, what=f"{name} {times}")

        first = fleet.signer(role="manager")
        frame = say(first, 1)
        counted("commands_accepted", 1)
        assert fleet.stranger.publish(command, frame)
        counted("command_replayed", 1)
        fleet.keys.rotate("manager", days=1.0)
        second = fleet.signer(role="manager")
        say(first, 2)  # under the old keyring, of which the board knows no better yet
        counted("commands_accepted", 2)
        say(second, 1)
        counted("commands_accepted", 3)
        say(first, 3)
        counted("command_unknown_key", 1)
        fleet.keys.revoke(second.key.key_id, days=1.0)
        fleet.keys.rotate("manager", days=1.0)
        third = fleet.signer(role="manager")
        say(third, 1)
        counted("commands_accepted", 4)
        say(second, 2)
        counted("command_revoked_key", 1)
        fleet.keys.renew(days=2.0 / 86_400)
        short, ends_at = fleet.signer(role="manager"), time.monotonic() + 2.0
        say(short, 2)
        counted("commands_accepted", 5)
        wait_until(lambda: time.monotonic() > ends_at, what="the keyring's end")
        say(short, 3)
        counted("command_keyring_expired", 1)
        say(third, 4)  # an older keyring, which would still be valid, is no way round
        counted("command_keyring_expired", 2)
        fleet.keys.renew(days=1.0)
        say(fleet.signer(role="manager"), 5)
        counted("commands_accepted", 6)
        assert topics.run not in fleet.heard
    assert "Traceback" not in acting.said()


def test_F31_an_old_policy_under_a_new_version_is_refused_by_its_own_file_and_never_tried_again(
    fleet: Fleet, wait_until: Wait
):
    with fleet.board() as acting, fleet.learner("--time-limit-s", "600") as learning:
        wait_until(lambda: fleet.steps() > 2000, timeout_s=90, what="the first steps")
        wait_until(lambda: len(fleet.genuine(fleet.topics.policy("all"))) > 3, timeout_s=60, what="some policies")
        learning.kill()
        attacker = Attacker(fleet)
        for version, counter in ((attacker.newest + 1000, "policies_refused"), (attacker.newest + 1001, PROVEN_BAD)):
            body = attacker.policies[0].body
            frame = seal_frame(body, kind="policy", version=version, run_id=attacker.run_id, signer=attacker.learner)
            assert fleet.stranger.publish(fleet.topics.policy("all"), frame)
            wait_until(lambda name=counter: fleet.counted(name) == 1, timeout_s=30, what=counter)
        seen = fleet.telemetry()
        assert seen is not None
        assert 0 < seen.policy_version <= attacker.newest
    assert "Traceback" not in acting.said()
