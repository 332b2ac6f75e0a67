"""`recipe = "auto"`: classes of boards measure, and each runs what is fastest on it. All of it real."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleet_processes import board, learner, read_report

from edgerl.broker import RunningBroker

WaitUntil = Callable[..., None]

# Wide enough for int8 to save what it costs.
AUTO = ("--recipe", "auto", "--hidden-sizes", "[512,512]", "--publish-every-s", "0.3")


def class_of(report: dict[str, Any], board_id: str) -> dict[str, Any]:
    (found,) = (c for c in report["policies"]["classes"] if board_id in c["boards"])
    return found


def commands(folder: Path, kind: str) -> int:
    with sqlite3.connect(folder / "state/audit.db") as database:
        return sum(f'"{kind}"' in details for (details,) in database.execute("SELECT details FROM entry"))


def test_two_classes_of_boards_choose_what_each_runs_fastest(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, tflite_python: Path
):
    with (
        learner(tmp_path, mosquitto.address, fleet_name, *AUTO, "--time-limit-s", "45") as learning,
        board(tmp_path, mosquitto.address, fleet_name, "old", python=tflite_python),
        board(tmp_path, mosquitto.address, fleet_name, "new"),
        board(tmp_path, mosquitto.address, fleet_name, "new-too"),
    ):
        learning.process.wait(120)
        said = learning.said()
    report = read_report(tmp_path)
    old, new = class_of(report, "old"), class_of(report, "new")
    assert class_of(report, "new-too") == new
    assert old["runtime"].startswith("tflite-runtime 2.14"), said
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
    for board_id in ("old", "new", "new-too"):
        counters = report["boards"][board_id]["counters"]
        assert counters.get("policies_refused", 0) == 0
        assert report["boards"][board_id]["env_steps"] > 1000
    assert report["trajectories"]["add_up"]
