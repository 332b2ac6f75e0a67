"""F30: forged and replayed commands, planted retained messages, and a board that listens to everybody.

First the broker's access list denies; then, to whoever may speak because a certificate was stolen, signatures do.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from hardened_broker import hardened_fleet
from tls_fleet import TlsFleet

from fleet_manager.key_folder import KeyFolder
from fleet_protocol.clock import utc_milliseconds
from fleet_protocol.codec import encode
from fleet_protocol.commands import Pause
from fleet_protocol.keys import PrivateKey
from fleet_protocol.messages import RunSpec
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.signing import Signer, seal_frame
from fleet_protocol.topics import FleetTopics

Wait = Callable[..., None]
TOPICS: Final = FleetTopics("home")
COMMAND: Final = TOPICS.down("b1", "command")
PLANTED: Final = [
    TOPICS.run,
    TOPICS.policy("all"),
    TOPICS.learner,
    COMMAND,
    TOPICS.down("b1", "desired"),
    TOPICS.down("b1", "candidate"),
    TOPICS.down("b1", "ack"),
    TOPICS.status("b1"),
    TOPICS.up("b1", "trajectory"),
]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[TlsFleet]:
    with hardened_fleet() as hardened:
        made = TlsFleet(hardened, tmp_path)
        with made.collector:
            made.collector.wait_connected(15)
            yield made


def session(fleet: TlsFleet, name: str, heard: list[tuple[str, bytes]] | None = None) -> MqttConnection:
    """A session with somebody's certificate, which asks for all that there is."""
    hear = [Subscription("#", 1, lambda topic, payload: heard.append((topic, payload)))] if heard is not None else []
    return MqttConnection(fleet.hardened.address(name), client_id=name, subscriptions=hear)


def sealed(body: bytes, signer: Signer | None, **parts: object) -> bytes:
    return seal_frame(body, run_id="evil", signer=signer, **parts)  # pyright: ignore[reportArgumentType]


def plant(fleet: TlsFleet, name: str, topic: str, payload: bytes, wait_until: Wait) -> None:
    """Publish in a session of its own, retained; and wait for the broker's answer, or for its hanging up."""
    with session(fleet, name) as planter:
        planter.wait_connected(15)
        planter.publish(topic, payload, retain=True)
        wait_until(lambda: planter.flush(0.01) or not planter.is_connected, timeout_s=30, what=f"an answer on {topic}")


@pytest.mark.timeout(600)
def test_F30_a_board_can_neither_plant_nor_overhear_while_a_fleet_works(
    fleet: TlsFleet, wait_until: Wait, tmp_path: Path
):
    with fleet.board("b1") as acting, fleet.learner() as learning:
        wait_until(lambda: fleet.steps("b1") > 2000, timeout_s=120, what="the first steps")
        for topic in PLANTED:
            plant(fleet, "b2", topic, b"planted", wait_until)
        overheard: list[tuple[str, bytes]] = []
        with session(fleet, "b2", overheard) as spy:
            spy.wait_connected(15)
            before = fleet.steps("b1")
            wait_until(lambda: fleet.steps("b1") > before + 2000, timeout_s=60, what="steps while somebody listens")
            wait_until(lambda: TOPICS.policy("all") in dict(overheard), timeout_s=60, what="what everybody may hear")
        heard = {topic for topic, _ in overheard}
        assert heard <= {TOPICS.run, TOPICS.policy("all"), TOPICS.learner, TOPICS.status("b2")}
        assert b"planted" not in {payload for _, payload in overheard}  # nor is any retained
        told = fleet.told("b1")
        assert told is not None
        assert [name for name in told.counters if "undecodable" in name or "unexpected" in name] == []
        assert learning.process.poll() is None
    assert "Traceback" not in acting.said() + learning.said()


@pytest.mark.timeout(600)
def test_F30_who_may_speak_by_a_stolen_certificate_is_not_believed_without_the_key(
    fleet: TlsFleet, wait_until: Wait, tmp_path: Path
):
    strange = KeyFolder(tmp_path / "strange")
    strange.init(fleet="home", days=1.0)
    forger = Signer(PrivateKey.load(tmp_path / "strange/learner.key"), (tmp_path / "strange/keyring").read_bytes())
    genuine: list[tuple[str, bytes]] = []
    with fleet.board("b1") as acting:
        with session(fleet, "manager", genuine) as listening, fleet.learner("--time-limit-s", "3") as learning:
            listening.wait_connected(15)
            assert learning.process.wait(120) == 0, learning.said()
        pauses = [payload for topic, payload in genuine if topic == COMMAND]
        assert pauses  # the learner has brought its board to rest
        run_id, high = fleet.run_of("b1"), utc_milliseconds() + 900_000
        run = encode(RunSpec(run_id="evil", generation=high, env_id="Acrobot-v1", unroll_length=8))
        pause = encode(Pause(run_id=run_id))

        def command(signer: Signer | None, **changes: object) -> bytes:
            return sealed(pause, signer, **({"kind": "command", "version": high, "target": "b1"} | changes))

        by_manager = fleet.signer("manager")
        attacks = [
            ("learner", COMMAND, "command_unsigned", command(None)),
            ("learner", COMMAND, "command_keyring", command(forger)),
            ("learner", COMMAND, "command_replayed", pauses[-1]),
            ("learner", TOPICS.run, "run_unsigned", sealed(run, None, kind="run", version=high)),
            ("learner", TOPICS.run, "run_keyring", sealed(run, forger, kind="run", version=high)),
            ("learner", TOPICS.policy("all"), "policy_keyring", sealed(b"TFL3", forger, kind="policy", version=10**6)),
            # The manager's certificate and key: what it may not say, and what came too late or to the wrong board.
            ("manager", COMMAND, "command_expired", command(by_manager, valid_s=-1.0)),
            ("manager", COMMAND, "command_target", command(by_manager, target="b2")),
            ("manager", COMMAND, "command_kind", sealed(run, by_manager, kind="run", version=high)),
            ("manager", TOPICS.down("b1", "desired"), "desired_unexpected", command(forger, kind="desired")),
        ]
        accepted = fleet.counted("b1", "commands_accepted")
        for name, topic, counter, payload in attacks:
            plant(fleet, name, topic, payload, wait_until)
            wait_until(lambda c=counter: fleet.counted("b1", c) >= 1, timeout_s=30, what=counter)
        plant(fleet, "manager", TOPICS.run, run, wait_until)  # which its certificate does not allow
        assert fleet.counted("b1", "commands_accepted") == accepted
        assert fleet.run_of("b1") == run_id
        assert fleet.counted("b1", "run_undecodable") == 0
    # What was planted is retained: a board that starts meets all of it, and believes none.
    with fleet.board("b1") as again:
        wait_until(lambda: fleet.counted("b1", "run_keyring") == 1, timeout_s=60, what="the planted run's counter")
        wait_until(
            lambda: fleet.counted("b1", "policy_keyring") == 1, timeout_s=60, what="the planted policy's counter"
        )
        wait_until(lambda: fleet.counted("b1", "desired_unexpected") == 1, timeout_s=60, what="the planted desired")
        wait_until(lambda: fleet.run_of("b1") == run_id and fleet.steps("b1") > 500, timeout_s=60, what="its own run")
    assert "Traceback" not in acting.said() + again.said()
