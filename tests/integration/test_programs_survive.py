"""Programs that die and messages without sense: a counter or one line, never a traceback or a hang."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet_processes import board, kill, learner, read_report

from edgerl.broker import RunningBroker
from fleet_monitor.collector import Collector
from fleet_monitor.fleet import BoardView
from fleet_protocol.codec import decode, encode
from fleet_protocol.commands import AtRest, CommandReply, Pause, Resume
from fleet_protocol.messages import Birth, LearnerReport, RunSpec
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.signing import seal_frame
from fleet_protocol.spaces import BoxSpec, DiscreteSpec
from fleet_protocol.topics import FleetTopics


@pytest.fixture
def collector(mosquitto: RunningBroker, fleet_name: str) -> Iterator[Collector]:
    with Collector(mosquitto.address, fleet=fleet_name, history_path=None) as listening:
        listening.wait_connected(10)
        yield listening


@pytest.fixture
def stranger(mosquitto: RunningBroker) -> Iterator[MqttConnection]:
    """Somebody else on the broker, who publishes what they like."""
    with MqttConnection(mosquitto.address, client_id="stranger", subscriptions=[]) as connection:
        connection.wait_connected(10)
        yield connection


def view_of(collector: Collector, name: str) -> BoardView | None:
    return next((board for board in collector.snapshot().boards if board.board_id == name), None)


def counter_of(collector: Collector, name: str, counter: str) -> int:
    seen = view_of(collector, name)
    return seen.telemetry.counters.get(counter, 0) if seen and seen.telemetry else 0


def env_steps_of(collector: Collector, name: str) -> int:
    seen = view_of(collector, name)
    return sum(run.env_steps for run in seen.telemetry.runs.values()) if seen and seen.telemetry else 0


def test_garbage_on_every_topic_is_counted_and_learning_goes_on(
    mosquitto: RunningBroker,
    fleet_name: str,
    collector: Collector,
    stranger: MqttConnection,
    tmp_path: Path,
    wait_until: Callable[..., None],
):
    topics = FleetTopics(fleet_name)
    with (
        learner(tmp_path, mosquitto.address, fleet_name) as learning,
        board(tmp_path, mosquitto.address, fleet_name, "b1") as acting,
    ):
        wait_until(lambda: env_steps_of(collector, "b1") > 2000, timeout_s=30, what="the first steps")
        garbage = b"\xde\xad\xbe\xef" * 5
        to_boards = [topics.run, topics.learner, topics.policy("all"), topics.policy("x")]
        to_boards += [topics.down("b1", kind) for kind in ("ack", "command", "candidate", "desired")]
        to_learner = [topics.up("b1", kind) for kind in ("trajectory", "telemetry", "log", "reply")]
        for topic in [*to_boards, *to_learner, topics.status("b1")]:
            assert stranger.publish(topic, garbage)
        for counter in ("run_undecodable", "learner_undecodable", "policy_undecodable", "ack_undecodable"):
            wait_until(lambda name=counter: counter_of(collector, "b1", name) >= 1, what=counter)
        wait_until(lambda: counter_of(collector, "b1", "command_undecodable") == 1, what="the command's counter")
        assert counter_of(collector, "b1", "status_undecodable") == 1
        before = env_steps_of(collector, "b1")
        wait_until(lambda: env_steps_of(collector, "b1") > before + 5000, what="further steps")
        assert collector.snapshot().ignored["status_undecodable"] == 1
        assert learning.process.poll() is None
    assert "Traceback" not in learning.said() + acting.said()
    report = read_report(tmp_path)
    assert report["ignored"]["decode_errors"] == 4
    assert report["trajectories"]["add_up"]


def test_a_killed_worker_is_replaced_and_goes_on_with_the_last_good_policy(
    mosquitto: RunningBroker, fleet_name: str, collector: Collector, tmp_path: Path, wait_until: Callable[..., None]
):
    with (
        learner(tmp_path, mosquitto.address, fleet_name),
        board(tmp_path, mosquitto.address, fleet_name, "b1") as acting,
    ):
        wait_until(lambda: env_steps_of(collector, "b1") > 2000, timeout_s=30, what="the first steps")
        (worker,) = acting.children("edge_actor.worker")
        kill(worker)
        wait_until(lambda: counter_of(collector, "b1", "worker_restarts") == 1, what="the restart's counter")
        before = env_steps_of(collector, "b1")
        wait_until(lambda: env_steps_of(collector, "b1") > before + 5000, what="further steps")
    assert "Traceback" not in acting.said()
    assert read_report(tmp_path)["trajectories"]["add_up"]


def test_a_killed_learner_resumes_its_run_with_rising_versions_and_exact_accounts(
    mosquitto: RunningBroker, fleet_name: str, collector: Collector, tmp_path: Path, wait_until: Callable[..., None]
):
    def heard() -> LearnerReport | None:
        return collector.snapshot().learner

    checkpoint = tmp_path / "state/checkpoint.pt"
    with board(tmp_path, mosquitto.address, fleet_name, "b1"), board(tmp_path, mosquitto.address, fleet_name, "b2"):
        with learner(tmp_path, mosquitto.address, fleet_name, "--checkpoint-every-s", "0.5") as first:
            wait_until(checkpoint.exists, timeout_s=30, what="a checkpoint")
            wait_until(lambda: (seen := heard()) is not None and seen.env_steps > 30_000, what="progress")
            first.kill()
        killed_at = heard()
        assert killed_at is not None
        with learner(tmp_path, mosquitto.address, fleet_name, "--checkpoint-every-s", "0.5"):
            wait_until(
                lambda: (
                    (seen := heard()) is not None
                    and seen.versions["all"] > killed_at.versions["all"]
                    and seen.state == "learning"
                    and seen.env_steps > killed_at.env_steps + 10_000
                ),
                timeout_s=30,
                what="learning after the restart",
            )
            resumed = heard()
            assert resumed is not None
            assert resumed.run_id == killed_at.run_id
    report = read_report(tmp_path)
    windows = report["trajectories"]
    assert report["run_id"] == killed_at.run_id
    assert windows["add_up"], windows
    assert windows["lost_window"] >= 0


def test_a_learner_that_was_ended_goes_on_with_the_boards_that_it_has_brought_to_rest(
    mosquitto: RunningBroker, fleet_name: str, collector: Collector, tmp_path: Path, wait_until: Callable[..., None]
):
    with board(tmp_path, mosquitto.address, fleet_name, "b1"):
        with learner(tmp_path, mosquitto.address, fleet_name):
            wait_until(lambda: env_steps_of(collector, "b1") > 2000, timeout_s=60, what="the first steps")
        assert read_report(tmp_path)["trajectories"]["add_up"]
        before = env_steps_of(collector, "b1")
        with learner(tmp_path, mosquitto.address, fleet_name, "--time-limit-s", "15") as second:
            wait_until(lambda: env_steps_of(collector, "b1") > before + 5000, timeout_s=60, what="further steps")
            assert second.process.wait(60) == 0, second.said()
    assert "did not come to rest" not in second.said()
    assert read_report(tmp_path)["trajectories"]["add_up"]


def test_a_board_at_rest_answers_whoever_asks_once_more(
    mosquitto: RunningBroker, fleet_name: str, collector: Collector, tmp_path: Path, wait_until: Callable[..., None]
):
    topics = FleetTopics(fleet_name)
    replies: list[CommandReply] = []
    listening = Subscription(
        topics.up("b1", "reply"), 1, lambda _, payload: replies.append(decode(payload, CommandReply))
    )
    with (
        MqttConnection(mosquitto.address, client_id="asker", subscriptions=[listening]) as asker,
        learner(tmp_path, mosquitto.address, fleet_name),
        board(tmp_path, mosquitto.address, fleet_name, "b1"),
    ):
        wait_until(lambda: env_steps_of(collector, "b1") > 2000, timeout_s=60, what="the first steps")
        run_id = collector.snapshot().learner.run_id  # pyright: ignore[reportOptionalMemberAccess]
        for counter, command in enumerate([Pause(run_id=run_id), Pause(run_id=run_id), Resume(), Pause(run_id=run_id)]):
            frame = seal_frame(
                encode(command), kind="command", version=counter + 1, run_id=run_id, target="b1", issuer="asker"
            )
            assert asker.publish(topics.down("b1", "command"), frame)
            wait_until(lambda asked=counter + 1: len(replies) == asked, timeout_s=30, what=f"answer {counter + 1}")
    assert [isinstance(reply.result, AtRest) for reply in replies] == [True, True, False, True]


def test_a_board_with_other_spaces_says_so_and_idles_while_the_first_goes_on(
    mosquitto: RunningBroker,
    fleet_name: str,
    collector: Collector,
    stranger: MqttConnection,
    tmp_path: Path,
    wait_until: Callable[..., None],
):
    topics = FleetTopics(fleet_name)
    with learner(tmp_path, mosquitto.address, fleet_name) as learning:
        wait_until(lambda: collector.snapshot().learner is not None, timeout_s=30, what="the learner")
        run_id = collector.snapshot().learner.run_id  # pyright: ignore[reportOptionalMemberAccess]
        odd = Birth(
            board_id="odd",
            boot_id="boot",
            session_id="session",
            software="test",
            run_id=run_id,
            observation_space=BoxSpec(shape=(9,), dtype="float32"),
            action_space=DiscreteSpec(n=3),
            copies=1,
        )
        assert stranger.publish(topics.status("odd"), encode(odd), retain=True)
        wait_until(lambda: view_of(collector, "odd") is not None, what="the odd birth")
        with board(tmp_path, mosquitto.address, fleet_name, "b1"):
            wait_until(
                lambda: (seen := view_of(collector, "b1")) is not None and seen.problem is not None,
                timeout_s=30,
                what="the second board's problem",
            )
            problem = view_of(collector, "b1").problem  # pyright: ignore[reportOptionalMemberAccess]
            assert problem is not None
            assert problem.code == 11
            assert "same version" in problem.sentence
            assert env_steps_of(collector, "b1") == 0
        assert learning.process.poll() is None


def test_a_learner_of_another_protocol_version_is_named_and_counted(
    mosquitto: RunningBroker,
    fleet_name: str,
    collector: Collector,
    stranger: MqttConnection,
    tmp_path: Path,
    wait_until: Callable[..., None],
):
    with board(tmp_path, mosquitto.address, fleet_name, "b1") as acting:
        wait_until(lambda: view_of(collector, "b1") is not None, timeout_s=30, what="the board")
        assert stranger.publish(f"edgerl/2/{fleet_name}/learner", b"whatever version 2 says")
        wait_until(lambda: counter_of(collector, "b1", "learner_protocol_mismatch") == 1, what="the counter")
        assert "install the same EdgeRL on both" in acting.said()


def test_an_environment_that_cannot_be_made_is_told_in_the_boards_status(
    mosquitto: RunningBroker,
    fleet_name: str,
    collector: Collector,
    stranger: MqttConnection,
    tmp_path: Path,
    wait_until: Callable[..., None],
):
    run = RunSpec(run_id="r", generation=1, env_id="Nope-v1", unroll_length=4)
    frame = seal_frame(encode(run), kind="run", version=1, run_id="r")
    assert stranger.publish(FleetTopics(fleet_name).run, frame, retain=True)
    with board(tmp_path, mosquitto.address, fleet_name, "b1") as acting:
        wait_until(
            lambda: (seen := view_of(collector, "b1")) is not None and seen.problem is not None,
            timeout_s=30,
            what="the problem",
        )
        assert view_of(collector, "b1").problem.code == 8  # pyright: ignore[reportOptionalMemberAccess]
    assert "Traceback" not in acting.said()


def test_two_agents_of_one_name_are_named_by_the_learner_and_by_themselves(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
):
    (tmp_path / "other").mkdir()
    with (
        learner(tmp_path, mosquitto.address, fleet_name) as learning,
        board(tmp_path, mosquitto.address, fleet_name, "twin") as one,
        board(tmp_path / "other", mosquitto.address, fleet_name, "twin") as other,
    ):
        wait_until(lambda: "two live agents call themselves twin" in learning.said(), timeout_s=60, what="the sentence")
        wait_until(lambda: "another live agent" in one.said() + other.said(), timeout_s=60, what="their own")
        assert learning.process.poll() is None
