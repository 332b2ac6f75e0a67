"""A board runs a class of an installed package when its owner allows it, and says why when it does not."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet_processes import board, learner, read_report

from edgerl.broker import RunningBroker
from fleet_monitor.collector import Collector
from fleet_monitor.fleet import BoardView
from fleet_protocol.codec import encode
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.messages import RunSpec
from fleet_protocol.mqtt import MqttConnection
from fleet_protocol.signing import seal_frame
from fleet_protocol.topics import FleetTopics

THERMOSTAT = "edgerl_examples.thermostat.environment:Thermostat"


@pytest.fixture
def collector(mosquitto: RunningBroker, fleet_name: str) -> Iterator[Collector]:
    with Collector(mosquitto.address, fleet=fleet_name, history_path=None) as listening:
        listening.wait_connected(10)
        yield listening


def view_of(collector: Collector, name: str) -> BoardView | None:
    return next((board for board in collector.snapshot().boards if board.board_id == name), None)


def announce(mosquitto: RunningBroker, fleet: str, run: RunSpec) -> None:
    with MqttConnection(mosquitto.address, client_id="teacher", subscriptions=[]) as connection:
        connection.wait_connected(10)
        frame = seal_frame(encode(run), kind="run", version=run.generation, run_id=run.run_id)
        assert connection.publish(FleetTopics(fleet).run, frame, retain=True)
        assert connection.flush(10)


@pytest.mark.parametrize(
    ("env_id", "code", "sentence"),
    [
        (THERMOSTAT, ExitCode.ENVIRONMENT_REFUSED, "--allow-env edgerl_examples.thermostat.environment"),
        ("gymnasium.envs:nothing_like_that", ExitCode.ENVIRONMENT_UNKNOWN, "nothing of this name"),
        ("gymnasium.spaces:Box", ExitCode.ENVIRONMENT_REFUSED, "no gymnasium.Env"),
        ("gymnasium.nowhere:Env", ExitCode.ENVIRONMENT_UNKNOWN, "No module named"),
    ],
)
def test_what_may_not_run_is_told_in_the_boards_status(
    mosquitto: RunningBroker,
    fleet_name: str,
    collector: Collector,
    tmp_path: Path,
    wait_until: Callable[..., None],
    env_id: str,
    code: ExitCode,
    sentence: str,
):
    announce(mosquitto, fleet_name, RunSpec(run_id="r", generation=1, env_id=env_id, unroll_length=4))
    with board(tmp_path, mosquitto.address, fleet_name, "b1") as agent:
        wait_until(
            lambda: (seen := view_of(collector, "b1")) is not None and seen.problem is not None,
            timeout_s=30,
            what="the problem",
        )
        problem = view_of(collector, "b1").problem  # pyright: ignore[reportOptionalMemberAccess]
        assert problem is not None
        assert (problem.code, sentence in problem.sentence) == (code, True), problem.sentence
        assert agent.process.poll() is None


def test_a_module_in_the_folder_of_the_start_is_no_installed_package(
    mosquitto: RunningBroker,
    fleet_name: str,
    collector: Collector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., None],
):
    (tmp_path / "lying_about.py").write_text("raise SystemExit('it was imported')\n", encoding="ascii")
    monkeypatch.chdir(tmp_path)
    announce(mosquitto, fleet_name, RunSpec(run_id="r", generation=1, env_id="lying_about:X", unroll_length=4))
    with board(tmp_path, mosquitto.address, fleet_name, "b1", "--allow-env", "lying_about"):
        wait_until(
            lambda: (seen := view_of(collector, "b1")) is not None and seen.problem is not None,
            timeout_s=30,
            what="the problem",
        )
        assert view_of(collector, "b1").problem.code == ExitCode.ENVIRONMENT_UNKNOWN  # pyright: ignore[reportOptionalMemberAccess]


def test_the_thermostat_is_learned_on_a_board_that_allows_it(mosquitto: RunningBroker, fleet_name: str, tmp_path: Path):
    flags = ("--env-id", THERMOSTAT, "--target-return", "-250", "--time-limit-s", "60", "--unroll-length", "64")
    with (
        learner(tmp_path, mosquitto.address, fleet_name, *flags, "--gamma", "0.95") as learning,
        board(tmp_path, mosquitto.address, fleet_name, "b1", "--allow-env", "edgerl_examples") as agent,
    ):
        assert learning.process.wait(90) == 0, learning.said() + agent.said()
    report = read_report(tmp_path)
    assert report["trajectories"]["add_up"]
    assert report["boards"]["b1"]["counters"].get("environment_faults", 0) == 0
