"""F32: the learner's key is stolen and used; the operator's drill, by the command line, brings the fleet back.

The thief has everything of the learner's: its certificate, its signing key, its keyring. It leads the boards away with
a run and a version that the learner would not reach for long, and brings them to rest.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import Final

import pytest
from fleet_processes import read_report
from hardened_broker import files_in, hardened_fleet
from tls_fleet import TlsFleet

from fleet_protocol.clock import utc_milliseconds
from fleet_protocol.codec import encode
from fleet_protocol.commands import Command, Pause
from fleet_protocol.messages import RunSpec
from fleet_protocol.mqtt import MqttConnection
from fleet_protocol.signing import Signer, seal_frame
from fleet_protocol.tls import find_refusal
from fleet_protocol.topics import FleetTopics

Wait = Callable[..., None]
TOPICS: Final = FleetTopics("home")
LONGEST_DRILL_S: Final = 120.0


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[TlsFleet]:
    with hardened_fleet() as hardened:
        made = TlsFleet(hardened, tmp_path)
        with made.collector:
            made.collector.wait_connected(15)
            yield made


def lead_away(thief: MqttConnection, stolen: Signer) -> None:
    """What a thief would do: a run of its own, far ahead, a version far ahead in it, and rest."""
    high = utc_milliseconds() + 900_000
    run = RunSpec(run_id="thief", generation=high, env_id="CartPole-v1", unroll_length=8)
    run_frame = seal_frame(encode(run), kind="run", version=high, run_id="thief", signer=stolen)
    policy = seal_frame(b"TFL3", kind="policy", version=900_000, run_id="thief", signer=stolen)
    assert thief.publish(TOPICS.run, run_frame, retain=True)
    assert thief.publish(TOPICS.policy("all"), policy, retain=True)
    assert thief.publish(TOPICS.down("b1", "command"), command_of(stolen, high, Pause(run_id="thief")))
    assert thief.flush(10)


def command_of(signer: Signer, version: int, command: Command) -> bytes:
    return seal_frame(
        encode(command), kind="command", version=version, run_id="thief", target="b1", valid_s=600.0, signer=signer
    )


@pytest.mark.timeout(600)
def test_F32_after_the_drill_the_fleet_learns_on_and_nothing_that_was_stolen_counts(
    fleet: TlsFleet, wait_until: Wait, tmp_path: Path, record_property: Callable[[str, object], None]
):
    root, stolen = str(fleet.root), fleet.signer("learner")
    with fleet.board("b1") as b1:
        with fleet.board("b2"), fleet.learner() as learning:
            for board in ("b1", "b2"):
                wait_until(lambda name=board: fleet.steps(name) > 2000, timeout_s=120, what=f"{board}'s first steps")
            wait_until((tmp_path / "state/checkpoint.pt").exists, timeout_s=60, what="a checkpoint")
            run_id = fleet.run_of("b1")
            learning.kill()
        with MqttConnection(fleet.hardened.address("learner"), client_id="learner", subscriptions=[]) as thief:
            thief.wait_connected(15)
            lead_away(thief, stolen)
            wait_until(lambda: fleet.run_of("b1") == "thief", timeout_s=30, what="the thief's run")
        stolen_files = files_in(copytree(fleet.hardened.folder.credentials("learner"), tmp_path / "stolen"))

        began_at = time.monotonic()
        fleet.edgerl("keys", "rotate", "learner", root)
        fleet.edgerl("keys", "revoke", stolen.key.key_id, root)
        fleet.edgerl("broker", "revoke", "learner", "--dir", root)
        fleet.edgerl("broker", "renew", "learner", "--dir", root)
        fleet.hardened.reload()
        with fleet.learner() as learning:
            before = fleet.steps("b1")
            wait_until(
                lambda: fleet.run_of("b1") == run_id and fleet.steps("b1") > before + 2000,
                timeout_s=LONGEST_DRILL_S,
                what="steps in the learner's own run",
            )
            drill_s = time.monotonic() - began_at
            record_property("drill_s", round(drill_s, 1))
            assert drill_s < LONGEST_DRILL_S

            refused = find_refusal(stolen_files, host="127.0.0.1", port=fleet.hardened.port, timeout_s=5)
            assert "it is revoked" in refused
            with MqttConnection(fleet.hardened.address("manager"), client_id="manager", subscriptions=[]) as insider:
                insider.wait_connected(15)
                command = TOPICS.down("b1", "command")
                # Somebody who may speak, and passes on what the thief has signed.
                insider.publish(command, command_of(stolen, utc_milliseconds(), Pause(run_id=run_id)))
                wait_until(lambda: fleet.counted("b1", "command_revoked_key") == 1, timeout_s=30, what="its counter")

                old_manager = fleet.signer("manager")
                fleet.edgerl("keys", "rotate", "root", root)
                wait_until(lambda: "that has come" in learning.said(), timeout_s=30, what="the learner's new keyring")
                taken = fleet.counted("b1", "commands_accepted")
                # By the new keyring, so that the board has surely followed to the new root.
                insider.publish(command, command_of(fleet.signer("manager"), utc_milliseconds(), Pause(run_id=run_id)))
                wait_until(
                    lambda: fleet.counted("b1", "commands_accepted") == taken + 1, timeout_s=30, what="a command"
                )
                insider.publish(command, command_of(old_manager, utc_milliseconds(), Pause(run_id=run_id)))
                wait_until(lambda: fleet.counted("b1", "command_keyring") == 1, timeout_s=30, what="the old root's end")
            # Who was off all the time holds the old root, and the thief's run never came to it.
            with fleet.board("b2") as b2:
                wait_until(
                    lambda: fleet.run_of("b2") == run_id and fleet.steps("b2") > 2000,
                    timeout_s=120,
                    what="steps of the board that was off",
                )
                assert fleet.counted("b2", "run_keyring") == fleet.counted("b2", "policy_keyring") == 0
            learning.process.terminate()
            learning.process.wait(60)
    assert read_report(tmp_path)["run_id"] == run_id
    assert "Traceback" not in b1.said() + b2.said() + learning.said()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("rotated", ["learner", "root"])
def test_F32_a_board_that_restarts_after_a_rotation_acts_before_anybody_speaks_to_it(
    rotated: str, fleet: TlsFleet, wait_until: Wait, tmp_path: Path
):
    with fleet.board("b1") as first, fleet.learner() as learning:
        wait_until(lambda: fleet.steps("b1") > 2000, timeout_s=120, what="the first steps")
        wait_until((tmp_path / "boards/b1/policy.frame").exists, timeout_s=60, what="a policy that is kept")
        kept = (tmp_path / "boards/b1/run.frame").read_bytes()
        fleet.edgerl("keys", "rotate", rotated, str(fleet.root))
        wait_until(lambda: "that has come" in learning.said(), timeout_s=30, what="the learner's new keys")
        wait_until(lambda: (tmp_path / "boards/b1/run.frame").read_bytes() != kept, timeout_s=30, what="the run, anew")
        version = told.policy_version if (told := fleet.told("b1")) else 0
        # Each version is made of windows that the ones before have filled: then some have proved themselves since.
        wait_until(
            lambda: (told := fleet.told("b1")) and told.policy_version > version + 5,
            timeout_s=60,
            what="newer policies",
        )
        learning.kill()
        first.process.terminate()
        assert first.process.wait(30) == 0
    with MqttConnection(fleet.hardened.address("learner"), client_id="learner", subscriptions=[]) as forgetful:
        forgetful.wait_connected(15)
        for topic in (TOPICS.run, TOPICS.policy("all"), TOPICS.learner):
            assert forgetful.publish(topic, b"", retain=True)
        assert forgetful.flush(10)
    boot = told.boot_id if (told := fleet.told("b1")) else ""
    with fleet.board("b1") as again:
        wait_until(
            lambda: (told := fleet.told("b1")) and told.boot_id != boot and fleet.steps("b1") > 100,
            timeout_s=60,
            what="steps with no learner",
        )
        assert fleet.counted("b1", "state_unreadable") == 0
    assert "Traceback" not in first.said() + again.said()
