"""Images, memories, stacks, spaces and precisions, end to end: real boards act, and a real learner learns from them."""

from pathlib import Path

import pytest
from fleet_processes import board, learner, read_report

from edgerl.broker import RunningBroker

MODULE = '''
import gymnasium
import numpy as np

spaces = gymnasium.spaces


class Robot(gymnasium.Env):
    """Sees a Dict; moves its arms by MultiDiscrete, MultiBinary or a Box of two dimensions."""

    observation_space = spaces.Dict(
        {"arm": spaces.Box(-1, 1, (2, 2), np.float32), "mode": spaces.Discrete(3), "bits": spaces.MultiBinary(2)}
    )

    def __init__(self, acts):
        self.action_space = {
            "multi_discrete": spaces.MultiDiscrete([3, 2], start=[1, -1]),
            "multi_binary": spaces.MultiBinary(3),
            "box": spaces.Box(-2, 2, (2, 2), np.float64),
        }[acts]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.age = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.age += 1
        return self.observation_space.sample(), float(np.sum(action)), False, self.age == 20, {}
'''
CATCH = ("--env-id", "edgerl_examples.catch:Catch", "--unroll-length", "10", "--copies", "2", "--frame-stack", "2")
TMAZE = ("--env-id", "edgerl_examples.tmaze:TMaze", "--memory-size", "32")
ROBOT = ("--env-id", "robot:Robot")
KINDS = {
    "nature-cnn, int8-full": (*CATCH, "--network", "nature-cnn", "--recipe", "int8-full"),
    "impala-resnet, int8": (*CATCH, "--network", "impala-resnet", "--recipe", "int8"),
    "nature-cnn with lstm, float16": (*CATCH, "--memory", "lstm", "--recipe", "float16"),
    "gru, int8": (*TMAZE, "--memory", "gru", "--recipe", "int8"),
    "lstm with a stack, int8-dynamic": (*TMAZE, "--memory", "lstm", "--frame-stack", "3"),
    "mlp, int8-full": ("--env-id", "CartPole-v1", "--recipe", "int8-full"),
    "Dict, MultiDiscrete": (*ROBOT, "--env-kwargs", '{acts = "multi_discrete"}'),
    "Dict, MultiBinary, gru": (*ROBOT, "--env-kwargs", '{acts = "multi_binary"}', "--memory", "gru"),
    "Dict, Box of two dimensions": (*ROBOT, "--env-kwargs", '{acts = "box"}'),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_board_acts_and_the_learner_learns(
    kind: str, mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "robot.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    allowed = [flag for module in ("gymnasium", "edgerl_examples", "robot") for flag in ("--allow-env", module)]
    flags = ("--time-limit-s", "4", "--evaluation-episodes", "2")
    with (
        learner(tmp_path, mosquitto.address, fleet_name, *flags, *KINDS[kind]) as learning,
        board(tmp_path, mosquitto.address, fleet_name, "b1", *allowed) as acting,
    ):
        assert learning.process.wait(90) == 0, learning.said() + acting.said()
    report = read_report(tmp_path)
    assert report["learner_updates"] >= 2
    assert report["policies"]["published"] >= 2
    assert report["trajectories"]["add_up"]
    assert sum(report["trajectories"]["dropped"].values()) == 0
    assert report["evaluation"]["episodes"] == 2
    counters = report["boards"]["b1"]["counters"]
    for trouble in ("environment_faults", "policies_refused", "policies_quarantined", "worker_restarts"):
        assert counters.get(trouble, 0) == 0, acting.said()
    assert "Traceback" not in learning.said() + acting.said()
