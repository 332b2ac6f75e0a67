"""`recipe = "auto"`: classes of boards measure, and each runs what is fastest on it. All of it real."""

import json
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fleet_processes import board, learner, read_report

from edgerl.broker import RunningBroker
from fleet_protocol.audit import AuditLog, AuditUnwritable
from fleet_protocol.codec import decode
from fleet_protocol.messages import Telemetry
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.topics import FleetTopics

WaitUntil = Callable[..., None]

# Wide enough for int8 to save what it costs.
AUTO = ("--recipe", "auto", "--hidden-sizes", "[512,512]", "--publish-every-s", "0.3")


def class_of(report: dict[str, Any], board_id: str) -> dict[str, Any]:
    (found,) = (c for c in report["policies"]["classes"] if board_id in c["boards"])
    return found


def commands(folder: Path) -> list[tuple[str, str]]:
    """What the learner has told boards so far: (board, words)."""
    try:
        entries = AuditLog(folder / "state/audit.db").entries()
    except AuditUnwritable:  # it is being made
        return []
    told = [json.loads(entry.details) for entry in entries if entry.kind == "command"]
    return [(details["board"], details["command"]) for details in told]


def followers(folder: Path) -> set[str]:
    return {name for name, words in commands(folder) if '"follow"' in words}


def test_two_classes_of_boards_choose_what_each_runs_fastest(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, tflite_python: Path, wait_until: WaitUntil
):
    with (
        learner(tmp_path, mosquitto.address, fleet_name, *AUTO) as learning,
        board(tmp_path, mosquitto.address, fleet_name, "old", python=tflite_python),
        board(tmp_path, mosquitto.address, fleet_name, "new"),
        board(tmp_path, mosquitto.address, fleet_name, "new-too"),
    ):
        wait_until(lambda: followers(tmp_path) == {"old", "new", "new-too"}, timeout_s=120, what="three followers")
        learning.process.send_signal(signal.SIGINT)
        learning.process.wait(20)
    report = read_report(tmp_path)
    old, new = class_of(report, "old"), class_of(report, "new")
    assert class_of(report, "new-too") == new
    assert old["runtime"].startswith("tflite-runtime 2.14")
    assert new["runtime"].startswith("ai-edge-litert")
    # int8 is slower than float32 there, and faster here.
    assert old["p50_us"]["int8-dynamic"] > old["p50_us"]["float32"]
    assert new["p50_us"]["int8-dynamic"] < new["p50_us"]["float32"]
    assert "int8-dynamic" not in old["ranking"]
    assert new["ranking"][0].startswith("int8")
    assert new["ranking"][-1] == old["ranking"][-1] == "float32"
    for chosen in (old, new):
        assert chosen["p50_us"][chosen["ranking"][0]] <= chosen["p50_us"]["float32"]
        assert chosen["recipe"] in chosen["ranking"]
        assert chosen["bytes"] > 0
    assert new["bytes"] < old["bytes"] / 3
    assert new["group"] != old["group"]
    for board_id, chosen in (("old", old), ("new", new), ("new-too", new)):
        assert report["boards"][board_id]["policy_group"] == chosen["group"]
        counters = report["boards"][board_id]["counters"]
        assert counters.get("policies_refused", 0) == 0
        assert report["boards"][board_id]["env_steps"] > 1000
    assert report["trajectories"]["add_up"]


def test_a_board_that_is_gone_is_named_and_another_of_its_class_measures(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: WaitUntil
):
    with ExitStack() as stack:
        learning = stack.enter_context(learner(tmp_path, mosquitto.address, fleet_name, *AUTO))
        boards = {
            name: stack.enter_context(board(tmp_path, mosquitto.address, fleet_name, name)) for name in ("b1", "b2")
        }
        wait_until(lambda: any('"bench"' in words for _, words in commands(tmp_path)), timeout_s=60, what="a bench")
        (asked,) = {name for name, words in commands(tmp_path) if '"bench"' in words}
        boards[asked].kill()
        wait_until(lambda: " runs int8" in learning.said(), timeout_s=60, what="a choice")
        assert f"board {asked} did not measure for its class" in learning.said()


def test_boards_that_another_run_has_paused_measure_follow_and_act(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: WaitUntil
):
    """A run ends with a pause that nobody takes back: the next run is another one."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with board(tmp_path, mosquitto.address, fleet_name, "b1"):
        with learner(first, mosquitto.address, fleet_name, "--time-limit-s", "2") as learning:
            learning.process.wait(60)
        with learner(second, mosquitto.address, fleet_name, *AUTO) as learning:
            wait_until(lambda: followers(second) == {"b1"}, timeout_s=60, what="a follower")
            learning.process.send_signal(signal.SIGINT)
            learning.process.wait(20)
        before = read_report(second)
        assert before["boards"]["b1"]["policy_group"] == class_of(before, "b1")["group"]
        assert before["env_steps"] > 0


def test_boards_come_back_to_the_runs_group_when_a_learner_that_knows_no_other_takes_over(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: WaitUntil
):
    with board(tmp_path, mosquitto.address, fleet_name, "b1"):
        with learner(tmp_path, mosquitto.address, fleet_name, *AUTO) as learning:
            wait_until(lambda: followers(tmp_path) == {"b1"}, timeout_s=60, what="a follower")
            learning.process.send_signal(signal.SIGINT)
            learning.process.wait(20)
        before = read_report(tmp_path)
        assert class_of(before, "b1")["group"] != "all"
        acted: list[int] = []
        telemetry = Subscription(
            FleetTopics(fleet_name).up("b1", "telemetry"),
            0,
            lambda _topic, payload: acted.append(decode(payload, Telemetry).policy_version),
        )
        with (
            MqttConnection(mosquitto.address, client_id="ear", subscriptions=[telemetry]),
            learner(tmp_path, mosquitto.address, fleet_name, *AUTO, "--recipe", "float32"),
        ):
            # A board that still listened to the other group would act with the first learner's last policy for ever.
            newer = before["policies"]["published"] + 1000
            wait_until(lambda: acted and acted[-1] >= newer, timeout_s=60, what="policies of the second learner")
