"""F26: one board of ten sends sound messages of poisoned experience, and the fleet learns its task all the same.

All boards are real, and run their own copy of an environment's package; the bad one's changes what its worker packs.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from fleet_processes import board, learner, read_report

from edgerl.broker import RunningBroker
from fleet_monitor.collector import Collector

Wait = Callable[..., None]
ROOT: Final = Path(__file__).parents[2]
BOARDS: Final = [f"b{number}" for number in range(10)]
BAD: Final = BOARDS[-1]
TASK: Final = ("--env-id", "poisonable:CartPole", "--env-kwargs", "{max_episode_steps = 500}")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("poison", "sentence"),
    [
        pytest.param("rewards x 1e6", "size of rewards"),
        pytest.param("constant observations", "movement of observations", marks=pytest.mark.thorough),
        pytest.param("forged logits", "certainty of actions", marks=pytest.mark.thorough),
    ],
)
def test_F26_a_poisoned_board_is_set_aside_by_name_and_the_others_learn(
    poison: str,
    sentence: str,
    mosquitto: RunningBroker,
    fleet_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Wait,
):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests/integration'}")
    with ExitStack() as stack:
        collector = stack.enter_context(Collector(mosquitto.address, fleet=fleet_name, history_path=None))
        for name in BOARDS:
            monkeypatch.setenv("POISON", poison if name == BAD else "")
            allowed = ("--allow-env", "poisonable", "--copies", "4")
            stack.enter_context(board(tmp_path, mosquitto.address, fleet_name, name, *allowed))
        goal = ("--target-return", "475", "--time-limit-s", "400")
        learning = stack.enter_context(learner(tmp_path, mosquitto.address, fleet_name, *TASK, *goal))

        def problem() -> str:
            heard = collector.snapshot().learner
            return heard.problem if heard else ""

        wait_until(
            lambda: f"{BAD}: " in problem() and sentence in problem(), timeout_s=240, what="the heartbeat's word"
        )
        assert learning.process.wait(600) == 0, learning.said()[-2000:]
    report = read_report(tmp_path)
    assert report["reached"]
    assert report["boards"][BAD]["set_aside"] > 0
    assert [name for name in BOARDS[:-1] if report["boards"][name]["set_aside"]] == []
    assert report["trajectories"]["dropped"]["outlier"] == report["boards"][BAD]["set_aside"]
    assert report["trajectories"]["add_up"]
