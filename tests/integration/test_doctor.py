"""`edgerl doctor` as a person and a script call it: real brokers, runtimes, files and environments."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgerl.broker import RunningBroker, free_port
from fleet_monitor.history import History
from fleet_protocol.exit_codes import ExitCode

TROUBLED = '''
import time
import gymnasium
import numpy as np
from gymnasium import spaces


class Fair(gymnasium.Env):
    """Nothing is wrong with it, but for its pace."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, pause_s=0.0):
        self.pause_s = pause_s

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        print("reset", flush=True)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        time.sleep(self.pause_s)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), 0.0, False, False, {}


class Real(Fair):
    """A sensor never says the same twice."""

    def step(self, action):
        return np.random.default_rng().uniform(-1, 1, 2).astype(np.float32), 0.0, False, False, {}


class Dies(Fair):
    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps > 50:
            raise OSError("the relay does not answer")
        return super().step(action)


class Wrong(Fair):
    def step(self, action):
        return np.zeros(3, np.float32), 0.0, False, False, {}


class Unreadable(Fair):
    observation_space = spaces.Text(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return "abc", {}

    def step(self, action):
        return "abc", 0.0, False, False, {}

'''

REGISTERED = """
import gymnasium

for name in ("Fair", "Real", "Dies", "Wrong", "Unreadable"):
    gymnasium.register(f"{name}-v0", entry_point=f"troubled:{name}")
"""


def doctor(*arguments: str, cwd: Path, python: Path | str = sys.executable) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EDGERL_")}
    environ["PYTHONPATH"] = f"{root}:{cwd}"
    command = [str(python), "-m", "edgerl.doctor", *arguments]
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False, timeout=200)


def checks_of(*arguments: str, cwd: Path, **more: Any) -> tuple[int, list[dict[str, str]]]:
    ended = doctor(*arguments, "--format", "json", cwd=cwd, **more)
    said = json.loads(ended.stdout)
    assert said["schema"] == 1
    assert all(set(check) == {"id", "area", "status", "found", "advice"} for check in said["checks"])
    return ended.returncode, said["checks"]


def status_of(checks: list[dict[str, str]]) -> dict[str, str]:
    """The worst status of each line."""
    ranks = ["ok", "warning", "problem"]
    worst: dict[str, str] = {}
    for check in checks:
        worst[check["id"]] = max(worst.get(check["id"], "ok"), check["status"], key=ranks.index)
    return worst


@pytest.fixture
def troubled(tmp_path: Path) -> Path:
    """A folder with environments that every Python started there knows by their ids."""
    (tmp_path / "troubled.py").write_text(TROUBLED, encoding="utf-8")
    (tmp_path / "sitecustomize.py").write_text(REGISTERED, encoding="utf-8")
    return tmp_path


def test_a_machine_that_can_be_all_is_told_so(any_broker: RunningBroker, tmp_path: Path):
    code, checks = checks_of("--broker", str(any_broker.address), cwd=tmp_path)
    assert [check for check in checks if check["status"] == "problem"] == []
    assert code == ExitCode.OK
    assert {check["area"] for check in checks} == {"learner", "board", "monitor"}
    spoken = {"mosquitto": "MQTT 5", "amqtt": "MQTT 3.1.1"}[any_broker.kind]
    assert all(check["found"].endswith(spoken) for check in checks if check["id"] == "broker")
    assert list(tmp_path.iterdir()) == [], "a doctor leaves nothing behind"


def test_each_line_says_status_area_and_what_to_do(tmp_path: Path):
    ended = doctor("monitor", "--broker", f"127.0.0.1:{free_port()}", cwd=tmp_path)
    assert ended.returncode == ExitCode.NO_BROKER
    *_, broker, advice, summary = ended.stdout.splitlines()
    assert broker.startswith("problem  monitor broker: no broker answers at 127.0.0.1:")
    assert "edgerl broker run" in advice
    assert summary == "checks: 4, problems: 1, warnings: 0"
    assert "\x1b" not in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code", "line"),
    [
        (("monitor", "--broker", "192.0.2.1"), ExitCode.ADDRESS_REFUSED, "broker"),
        (("monitor", "--broker", "a b"), ExitCode.USAGE, "broker"),
        (("monitor", "--config", "missing.toml"), ExitCode.CONFIG, "settings"),
        (("learner", "--state", "/dev/null/state"), ExitCode.STATE_UNUSABLE, "state"),
        (("monitor", "--db", "/dev/null/fleet.db"), ExitCode.STATE_UNUSABLE, "disk"),
    ],
)
def test_what_is_wrong_decides_the_exit_code(
    mosquitto: RunningBroker, tmp_path: Path, arguments: tuple[str, ...], exit_code: ExitCode, line: str
):
    area, *flags = arguments
    if "--broker" not in flags:
        flags += ["--broker", str(mosquitto.address)]
    code, checks = checks_of(area, *flags, cwd=tmp_path)
    assert (code, status_of(checks)[line]) == (exit_code, "problem")


def test_a_port_that_speaks_no_mqtt_is_a_problem(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            connection, _ = server.accept()
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        code, checks = checks_of("monitor", "--broker", f"127.0.0.1:{server.getsockname()[1]}", cwd=tmp_path)
        thread.join()
    assert (code, status_of(checks)["broker"]) == (ExitCode.NO_BROKER, "problem")


def test_the_monitors_file_is_looked_at_and_left_alone(mosquitto: RunningBroker, tmp_path: Path):
    file = tmp_path / "fleet.db"
    with History(file) as history:
        history.write([], [])
    broker = ("--broker", str(mosquitto.address), "--db", str(file))
    assert checks_of("monitor", *broker, cwd=tmp_path)[0] == ExitCode.OK
    with closing(sqlite3.connect(file)) as other, other:
        other.execute("PRAGMA application_id=1")
    before = file.read_bytes()
    code, checks = checks_of("monitor", *broker, cwd=tmp_path)
    assert (code, status_of(checks)["database"]) == (ExitCode.STATE_UNUSABLE, "problem")
    assert file.read_bytes() == before


def test_an_old_runtime_with_its_numpy_runs_but_not_the_default_recipe(tflite_python: Path, tmp_path: Path):
    _, checks = checks_of("board", "--broker", f"127.0.0.1:{free_port()}", cwd=tmp_path, python=tflite_python)
    runtime = next(check for check in checks if check["id"] == "runtime")
    assert (runtime["status"], "tflite-runtime 2.14.0 with numpy 1" in runtime["found"]) == ("warning", True)
    assert "int8-dynamic+per-tensor" in runtime["advice"]


def test_a_board_is_examined_without_torch_typer_and_rich(tmp_path: Path):
    code = (
        "import sys; from edgerl.doctor.__main__ import main; main(['board']); "
        "print([m for m in ('torch', 'typer', 'rich') if m in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", code]
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    said = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True, timeout=100)
    assert said.stderr.strip() == "[]"


def test_a_runtime_that_crashes_its_process_is_a_problem_line(mosquitto: RunningBroker, tmp_path: Path):
    package = tmp_path / "ai_edge_litert"
    package.mkdir()
    (package / "__init__.py").touch()
    # What a wheel for another processor does: SIGILL.
    (package / "interpreter.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    code, checks = checks_of("board", "--broker", str(mosquitto.address), cwd=tmp_path)
    runtime = next(check for check in checks if check["id"] == "runtime")
    assert (code, runtime["status"]) == (ExitCode.DEPENDENCY_MISSING, "problem")
    assert "signal 4" in runtime["found"]


def test_the_edgerl_command_leads_to_the_doctor(tmp_path: Path):
    command = [sys.executable, "-c", "from edgerl.cli import main; main()", "doctor", "env", "Nope-v9"]
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert ended.returncode == ExitCode.ENVIRONMENT_UNKNOWN
    assert "problem  env make:" in ended.stdout


# --- environments -----------------------------------------------------------------------------------------------------


def env_checks(name: str, *flags: str, cwd: Path) -> tuple[int, dict[str, str]]:
    code, checks = checks_of("env", f"{name}-v0", "--allow-env", "troubled", *flags, cwd=cwd)
    return code, status_of(checks)


def test_a_fair_environment_holds_a_rate_that_it_can(troubled: Path):
    code, lines = env_checks("Fair", "--control-hz", "50", cwd=troubled)
    assert code == ExitCode.OK
    assert set(lines) == {"library", "make", "checker", "spaces", "reset", "step", "rate", "close"}
    assert lines["rate"] == "ok"


def test_a_slow_environment_does_not_hold_it(troubled: Path):
    flags = ("--control-hz", "50", "--env-kwargs", '{"pause_s": 0.05}')
    code, lines = env_checks("Fair", *flags, cwd=troubled)
    assert (code, lines["rate"], lines["step"]) == (ExitCode.MACHINE_UNFIT, "problem", "ok")


def test_what_was_measured_is_in_the_json(troubled: Path):
    flags = ("--env-kwargs", '{"pause_s": 0.02}', "--allow-env", "troubled", "--format", "json")
    ended = doctor("env", "Fair-v0", *flags, cwd=troubled)
    step_ms = json.loads(ended.stdout)["measured"]["step_ms"]
    assert 20 <= step_ms["p50"] <= step_ms["p99"] <= step_ms["max"]


def test_hardware_need_not_repeat_itself(troubled: Path):
    code, lines = env_checks("Real", cwd=troubled)
    assert (code, lines["checker"], lines["step"]) == (ExitCode.OK, "warning", "ok")


def test_an_environment_that_raises_is_told_with_its_own_words(troubled: Path):
    code, checks = checks_of("env", "Dies-v0", "--allow-env", "troubled", cwd=troubled)
    step = next(check for check in checks if check["id"] == "step")
    assert (code, step["status"]) == (ExitCode.ENVIRONMENT_FAILED, "problem")
    assert "the relay does not answer" in step["found"]
    assert checks[-1]["id"] == "close"


def test_observations_outside_their_space_are_a_problem(troubled: Path):
    code, checks = checks_of("env", "Wrong-v0", "--allow-env", "troubled", cwd=troubled)
    step = next(check for check in checks if check["id"] == "step")
    assert (code, step["status"]) == (ExitCode.ENVIRONMENT_FAILED, "problem")
    assert "shape [3]" in step["found"]


def test_spaces_that_cannot_be_learned_are_a_problem(troubled: Path):
    code, lines = env_checks("Unreadable", cwd=troubled)
    assert (code, lines["spaces"]) == (ExitCode.SPACE_UNSUPPORTED, "problem")


def test_code_that_the_board_does_not_allow_is_not_run(troubled: Path):
    code, checks = checks_of("env", "Fair-v0", cwd=troubled)
    assert (code, status_of(checks)["make"]) == (ExitCode.ENVIRONMENT_REFUSED, "problem")
    assert "--allow-env troubled" in checks[-1]["found"]


@pytest.mark.parametrize("kwargs", ["{", "[1]"])
def test_arguments_that_are_no_object_are_refused(troubled: Path, kwargs: str):
    assert env_checks("Fair", "--env-kwargs", kwargs, cwd=troubled)[0] == ExitCode.USAGE
