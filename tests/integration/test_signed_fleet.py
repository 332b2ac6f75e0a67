"""A board that holds a root key, over a real broker: strangers are refused and counted, the root's own are obeyed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet_processes import read_report
from msgspec.structs import replace
from signed_fleet import Fleet

from edgerl.broker import RunningBroker
from fleet_protocol.clock import utc_milliseconds
from fleet_protocol.codec import decode, encode
from fleet_protocol.commands import Bench, Pause
from fleet_protocol.messages import Frame, FrameHeader, RunSpec
from fleet_protocol.signing import Signer

Wait = Callable[..., None]


@pytest.fixture
def fleet(mosquitto: RunningBroker, fleet_name: str, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(mosquitto, fleet_name, tmp_path)
    with made.stranger:
        made.stranger.wait_connected(10)
        yield made


def evil_run() -> bytes:
    return encode(RunSpec(run_id="x", generation=10**6, env_id="Acrobot-v1", unroll_length=8))


def test_strangers_are_refused_and_counted_and_whom_the_root_names_leads_the_run(fleet: Fleet, wait_until: Wait):
    topics, strange = fleet.topics, fleet.signer("strange")
    with fleet.board() as acting:
        wait_until(lambda: fleet.telemetry() is not None, timeout_s=30, what="the board")
        for signer, reason in (
            (None, "unsigned"),
            (strange, "keyring"),
            (Signer(strange.key, fleet.signer().keyring), "unknown_key"),
        ):
            fleet.say(topics.run, evil_run(), signer, kind="run")
            fleet.say(topics.policy("all"), b"TFL3", signer, kind="policy")
            fleet.say(topics.down("b1", "command"), encode(Pause(run_id="x")), signer, kind="command")
            fleet.say(topics.down("b1", "candidate"), encode(Bench(model=b"TFL3")), signer, kind="candidate")
            for kind in ("run", "policy", "command", "candidate"):
                wait_until(lambda name=f"{kind}_{reason}": fleet.counted(name) == 1, what=f"{kind}_{reason}")
        assert (fleet.run_id(), fleet.steps()) == ("", 0)
        with fleet.learner("--target-return", "60", "--evaluation-episodes", "2") as learning:
            wait_until(lambda: fleet.steps() > 1000, timeout_s=40, what="steps under the signed run")
            fleet.say(topics.policy("all"), b"TFL3", strange, kind="policy", run_id=fleet.run_id())
            wait_until(lambda: fleet.counted("policy_keyring") == 2, what="a forged policy of the right run")
            genuine = fleet.genuine(topics.policy("all"))[-1]
            assert fleet.stranger.publish(topics.policy("all"), encode(replace(genuine, signature=bytes(64))))
            wait_until(lambda: fleet.counted("policy_signature") == 1, what="a forged signature")
            assert learning.process.wait(120) == 0, learning.said()
        command = fleet.genuine(topics.down("b1", "command"))[-1]
        assert fleet.stranger.publish(topics.down("b1", "command"), encode(command))
        wait_until(lambda: fleet.counted("command_replayed") == 1, what="the replayed command's counter")
        with fleet.learner("--time-limit-s", "1", "--evaluation-episodes", "1") as again:
            assert again.process.wait(120) in (0, 7), again.said()
        wait_until(lambda: len(fleet.genuine(topics.down("b1", "command"))) >= 4, what="the commands after a restart")
        assert fleet.counted("command_replayed") == 1
    report = read_report(fleet.folder)
    assert report["trajectories"]["add_up"], report["trajectories"]
    assert report["evaluation"]["episodes"] == 1
    assert "Traceback" not in acting.said() + learning.said()
    secret = (fleet.folder / "keys/learner.key").read_text().splitlines()[1]
    assert secret not in acting.said() + learning.said()


@pytest.mark.parametrize("thief_says", ["a run", "a policy"])
def test_a_revoked_key_is_refused_and_its_successor_resumes_the_run(thief_says: str, fleet: Fleet, wait_until: Wait):
    topics = fleet.topics
    with fleet.board() as acting:
        with fleet.learner("--checkpoint-every-s", "0.5") as first:
            wait_until(lambda: fleet.steps() > 3000, timeout_s=40, what="steps under the first key")
            wait_until((fleet.folder / "state/checkpoint.pt").exists, timeout_s=20, what="a checkpoint")
            run_id = fleet.run_id()
            first.kill()
        if thief_says == "a policy":  # by another key than the run's: then the run stands, and the policy alone must go
            fleet.keys.rotate("learner", days=1.0)
        stolen = fleet.signer()
        # The thief locks the learner out: with a generation or a version that it does not reach for long.
        if thief_says == "a run":
            high = utc_milliseconds() + 900_000
            run = RunSpec(run_id="thief", generation=high, env_id="CartPole-v1", unroll_length=8)
            fleet.say(topics.run, encode(run), stolen, kind="run", version=high, run_id="thief")
            wait_until(lambda: fleet.run_id() == "thief", timeout_s=20, what="the thief's run")
        else:
            fleet.say(topics.policy("all"), b"TFL3", stolen, kind="policy", version=900_000, run_id=run_id)
            wait_until(
                lambda: (seen := fleet.telemetry()) and seen.highest_version_seen == 900_000, what="the thief's policy"
            )
        fleet.keys.rotate("learner", days=1.0)
        fleet.keys.revoke(stolen.key.key_id, days=1.0)
        with fleet.learner():
            before = fleet.steps()
            wait_until(
                lambda: (
                    (seen := fleet.telemetry()) and 0 < seen.policy_version < 900_000 and fleet.steps() > before + 3000
                ),
                timeout_s=40,
                what="steps under the second key",
            )
            fleet.say(topics.policy("all"), b"TFL3", stolen, kind="policy", version=900_001, run_id=run_id)
            wait_until(lambda: fleet.counted("policy_revoked_key") >= 1, what="the revoked key's counter")
            assert fleet.run_id() == run_id
    assert read_report(fleet.folder)["trajectories"]["add_up"]
    assert "Traceback" not in acting.said()


def test_a_running_learner_follows_its_keys_and_boards_lose_nothing(fleet: Fleet, wait_until: Wait):
    topics, old = fleet.topics, fleet.signer()
    with fleet.board() as acting, fleet.learner() as learning:
        wait_until(lambda: fleet.steps() > 1000, timeout_s=40, what="steps under the first key")
        fleet.keys.rotate("learner", days=1.0)
        fleet.keys.revoke(old.key.key_id, days=1.0)
        wait_until(lambda: fleet.heard.get(topics.run) and fleet.genuine(topics.run), what="the run by the second key")
        version = decode(fleet.genuine(topics.run)[-1].header, FrameHeader).version
        assert version == max(decode(decode(run, Frame).header, FrameHeader).version for run in fleet.heard[topics.run])
        # The board drops what the revoked key has signed, and the learner may wait for the board: so it comes at once.
        wait_until(lambda: fleet.genuine(topics.policy("all")), what="a policy by the second key")
        newest = decode(fleet.genuine(topics.policy("all"))[0].header, FrameHeader).version
        wait_until(
            lambda: (seen := fleet.telemetry()) and seen.policy_version >= newest, timeout_s=30, what="its first steps"
        )
        wait_until(lambda: "the keyring" in learning.said() and "expires in 1 day" in learning.said(), what="a warning")
        learning.process.terminate()
        learning.process.wait(30)
        assert fleet.counted("policy_revoked_key") <= 2  # what was with the checker, and waited for it, at that moment
    assert read_report(fleet.folder)["trajectories"]["add_up"]
    assert "Traceback" not in acting.said() + learning.said()


def test_a_policy_that_waited_for_its_run_is_not_taken_once_its_key_is_revoked(fleet: Fleet, wait_until: Wait):
    topics, stolen = fleet.topics, fleet.signer()
    with fleet.board() as acting:
        wait_until(lambda: fleet.telemetry() is not None, timeout_s=30, what="the board")
        fleet.say(topics.policy("all"), b"TFL3", stolen, kind="policy")
        fleet.keys.revoke(stolen.key.key_id, days=1.0)
        fleet.keys.rotate("learner", days=1.0)
        run = RunSpec(run_id="x", generation=1, env_id="CartPole-v1", unroll_length=8)
        fleet.say(topics.run, encode(run), fleet.signer(), kind="run", version=1)
        wait_until(lambda: fleet.counted("policy_revoked_key") == 1, what="the waiting policy's counter")
        wait_until(lambda: fleet.run_id() == "x", what="the run")
        assert fleet.counted("policies_refused") == fleet.counted("policies_quarantined") == 0
    assert "Traceback" not in acting.said()


def test_after_a_restart_a_board_acts_on_what_it_kept_and_still_refuses_what_is_old(fleet: Fleet, wait_until: Wait):
    topics = fleet.topics
    with fleet.board() as acting, fleet.learner("--time-limit-s", "600") as learning:
        wait_until((fleet.folder / "boards/b1/policy.frame").exists, timeout_s=40, what="a policy that is kept")
        wait_until(lambda: len(fleet.genuine(topics.policy("all"))) > 3, what="newer ones")
        acting.process.terminate()  # floors of policies are written at the end
        acting.process.wait(20)
        learning.kill()
    old_run, old_policy = (fleet.genuine(topic)[0] for topic in (topics.run, topics.policy("all")))
    run_id = decode(old_run.header, FrameHeader).run_id
    for topic in (topics.run, topics.policy("all"), topics.learner):
        assert fleet.stranger.publish(topic, b"", retain=True)
    fleet.heard[topics.up("b1", "telemetry")].clear()
    with fleet.board() as again:
        wait_until(lambda: fleet.run_id() == run_id and fleet.steps() > 100, timeout_s=30, what="steps with no learner")
        assert fleet.stranger.publish(topics.policy("all"), encode(old_policy), retain=True)
        wait_until(lambda: fleet.counted("policy_rollback") == 1, what="the old policy's counter")
    assert "Traceback" not in acting.said() + again.said()
