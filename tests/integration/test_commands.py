"""The operator's commands: signed, noted before they are sent, answered, and refused where somebody else gives them."""

import base64
import hashlib
import json
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fleet_processes import Program
from hardened_broker import HardenedFleet, hardened_fleet
from running_depot import EDGERL

from cloud_learner.networks import ActorCritic
from cloud_learner.policy_metadata import policy_metadata
from compressor import CompressionRecipe, compress
from fleet_manager.commands import BoardCommander
from fleet_protocol.audit import AuditLog
from fleet_protocol.codec import BadMessage, decode
from fleet_protocol.commands import Resume
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.keys import PrivateKey
from fleet_protocol.messages import RunSpec, Telemetry
from fleet_protocol.signing import Signer
from fleet_protocol.spaces import BoxSpec, DiscreteSpec

WaitUntil = Callable[..., None]


class Fleet:
    """A learner and board b1 with certificates and keys, at work."""

    def __init__(self, hardened: HardenedFleet, folder: Path, learner: Program, board: Program) -> None:
        self.hardened = hardened
        self.folder = folder
        self.learner = learner
        self.board = board
        self.config = hardened.folder.credentials("manager") / "edgerl.toml"
        self.audit = AuditLog(self.config.with_name("audit.db"))

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`edgerl command`, as an operator runs it."""
        command = [EDGERL, "command", *arguments, "-c", self.config, "--format", "json"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)

    def audited(self) -> list[tuple[str, dict[str, Any]]]:
        """The manager's audit."""
        return [(entry.kind, json.loads(entry.details)) for entry in self.audit.entries()]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with hardened_fleet() as hardened:

        def config(name: str) -> tuple[str, str]:
            return ("--config", str(hardened.folder.credentials(name) / "edgerl.toml"))

        output = ("--state", str(tmp_path / "state"), "--report", str(tmp_path / "report.json"))
        at_work = ("--evaluation-episodes", "0", "--publish-every-s", "600", "--publish-every-updates", "1000000")
        board_state = ("--telemetry-period-s", "0.3", "--state", str(tmp_path / "boards"))
        with (
            Program(tmp_path / "learner.log", "cloud_learner", *config("learner"), *output, *at_work) as learner,
            Program(tmp_path / "board.log", "edge_actor", *config("b1"), *board_state) as board,
        ):
            yield Fleet(hardened, tmp_path, learner, board)


def heard_of(fleet: Fleet, wait_until: WaitUntil) -> Iterator[Callable[[], Telemetry]]:
    """The board's newest telemetry."""
    newest: list[Telemetry] = []

    def hear(topic: str, payload: bytes) -> None:
        if topic.endswith("up/telemetry"):
            try:
                newest.append(decode(payload, Telemetry))
            except BadMessage:
                raise AssertionError(topic) from None

    with fleet.hardened.connection("monitor", hear) as monitor:
        monitor.wait_connected(20)
        wait_until(lambda: newest and steps(newest[-1]) > 0, timeout_s=120, what="the board's first steps")
        yield lambda: newest[-1]


def steps(telemetry: Telemetry) -> int:
    return sum(run.env_steps for run in telemetry.runs.values())


@pytest.fixture
def telemetry(fleet: Fleet, wait_until: WaitUntil) -> Iterator[Callable[[], Telemetry]]:
    yield from heard_of(fleet, wait_until)


def test_a_board_pauses_evaluates_and_resumes(fleet: Fleet, telemetry: Callable[[], Telemetry], wait_until: WaitUntil):
    paused = fleet.command("b1", "pause")
    assert paused.returncode == 0, paused.stderr
    assert json.loads(paused.stdout)["result"]["type"] == "at_rest"
    at_rest = telemetry()
    evaluated = fleet.command("b1", "evaluate", "--episodes", "3")
    assert evaluated.returncode == 0, evaluated.stderr
    result = json.loads(evaluated.stdout)["result"]
    assert len(result["returns"]) == 3
    assert result["policy_version"] == telemetry().policy_version
    assert steps(telemetry()) == steps(at_rest)
    resumed = fleet.command("b1", "resume")
    assert resumed.returncode == 0, resumed.stderr
    wait_until(lambda: steps(telemetry()) > steps(at_rest), timeout_s=60, what="more steps")
    wait_until(lambda: telemetry().counters["commands_accepted"] == 3, what="the board's count")

    issuer = {entry["issuer"] for _, entry in fleet.audited()}
    assert issuer == {PrivateKey.load(fleet.config.with_name("signing.key")).key_id}
    commands = [json.loads(entry["command"])["type"] for kind, entry in fleet.audited() if kind == "command"]
    assert commands == ["pause", "evaluate", "resume"]
    counters = [(kind, entry["counter"]) for kind, entry in fleet.audited()]
    assert [kind for kind, _ in counters] == ["command", "answer"] * 3
    assert [a == b for (_, a), (_, b) in zip(counters[::2], counters[1::2], strict=True)] == [True] * 3
    assert fleet.audit.verify() == []


def policy_files(folder: Path) -> dict[str, Path]:
    """A large policy in float32 and int8, and one whose file ends in the middle."""
    spaces = BoxSpec(shape=(4,), dtype="float32"), DiscreteSpec(n=2)
    network = ActorCritic(*spaces, [512, 512])
    run = RunSpec(run_id="r", generation=1, env_id="X", unroll_length=8)
    files: dict[str, Path] = {}
    for text in ("float32", "int8-dynamic"):
        graph, recipe = network.to_graph(), CompressionRecipe.parse(text)
        metadata = policy_metadata(
            recipe, heads=graph.heads, state_size=0, run=run, version=1, spaces=spaces, largest_logit=0.0
        )
        files[text] = folder / f"{text}.tflite"
        files[text].write_bytes(compress(graph, recipe, metadata=metadata).model)
    files["broken"] = folder / "broken.tflite"
    files["broken"].write_bytes(files["float32"].read_bytes()[:5000])
    return files


def test_a_board_measures_policies_while_nothing_acts_and_goes_on(
    fleet: Fleet, telemetry: Callable[[], Telemetry], tmp_path: Path, wait_until: WaitUntil
):
    files = policy_files(tmp_path)
    command = [EDGERL, "bench", files["float32"], files["int8-dynamic"], "--on", "b1", "--steps", "300"]
    command += ["-c", fleet.config, "--format", "json"]
    before = steps(telemetry())
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["board"] == "b1"
    for told, text in zip(said["policies"], ("float32", "int8-dynamic"), strict=True):
        model = files[text].read_bytes()
        assert base64.b64decode(told["sha256"]) == hashlib.sha256(model).digest()
        assert 0 < told["p50_us"] <= told["p95_us"] <= told["p99_us"] <= told["p999_us"]
        assert told["load_ms"] > 0
        assert told["steps"] == 300
        assert told["runtime"].startswith("ai-edge-litert")
    large, small = said["policies"]
    assert large["rss_mb"] > small["rss_mb"]
    wait_until(lambda: steps(telemetry()) > before + 500, timeout_s=60, what="steps after the bench")
    entries = [json.loads(entry["command"]) for kind, entry in fleet.audited() if kind == "command"]
    assert [entry["model"]["sha256"] for entry in entries] == [
        hashlib.sha256(files[text].read_bytes()).hexdigest() for text in ("float32", "int8-dynamic")
    ]


def test_a_paused_board_stays_paused_after_a_bench_and_a_broken_policy_is_named(
    fleet: Fleet, telemetry: Callable[[], Telemetry], tmp_path: Path
):
    files = policy_files(tmp_path)
    assert fleet.command("b1", "pause").returncode == 0
    at_rest = steps(telemetry())
    flags = ["--on", "b1", "--steps", "100", "-c", fleet.config]
    for name, code in (("broken", ExitCode.COMMAND_FAILED), ("float32", ExitCode.OK)):
        command = [EDGERL, "bench", files[name], *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == code, done.stderr
        assert ("cannot be run here" in " ".join(done.stderr.split())) == (name == "broken")
    fleet.command("b1", "evaluate", "--episodes", "1")
    assert steps(telemetry()) == at_rest


def test_a_board_that_rests_says_so_again(fleet: Fleet, telemetry: Callable[[], Telemetry]):
    results = [json.loads(fleet.command("b1", "pause").stdout)["result"] for _ in range(2)]
    fleet.command("b1", "evaluate", "--episodes", "1")
    results.append(json.loads(fleet.command("b1", "pause").stdout)["result"])
    assert [result["produced"] for result in results] == [results[0]["produced"]] * 3


def test_a_command_that_a_board_cannot_carry_out_says_so(fleet: Fleet, telemetry: Callable[[], Telemetry]):
    said = fleet.command("b1", "evaluate", "--policy-version", "999999", "--episodes", "1")
    assert said.returncode == ExitCode.COMMAND_FAILED
    assert f"holds policy {telemetry().policy_version}" in said.stderr
    assert "not done in time" in fleet.audited()[-1][1]["problem"]


@pytest.mark.parametrize("signed_by", ["nobody", "a stranger"])
def test_a_command_that_the_root_does_not_vouch_for_is_refused_and_the_operator_told(
    fleet: Fleet, telemetry: Callable[[], Telemetry], wait_until: WaitUntil, signed_by: str
):
    signer = None if signed_by == "nobody" else Signer(PrivateKey(), fleet.config.with_name("keyring").read_bytes())
    audit = AuditLog(fleet.folder / "audit.db")
    with BoardCommander(
        fleet.hardened.address("manager"), fleet="home", board_id="b1", audit=audit, signer=signer
    ) as commander:
        commander.find()
        with pytest.raises(ProgramError, match=r"did not answer within .* It said: refused a message on command"):
            commander.send(Resume(), run_id="", wait_s=15)
    refused = lambda: [name for name in telemetry().counters if name.startswith("command_")]  # noqa: E731
    wait_until(refused, what="the board's count")
    assert telemetry().counters.get("commands_accepted", 0) == 0
    assert [entry.kind for entry in audit.entries()] == ["command", "answer"]


def test_a_board_that_is_not_there_is_not_commanded(fleet: Fleet, telemetry: Callable[[], Telemetry]):
    nobody = fleet.command("b2", "pause")
    assert nobody.returncode == ExitCode.COMMAND_FAILED
    assert "has never been at this broker" in nobody.stderr
    fleet.board.process.terminate()
    fleet.board.process.wait(60)
    gone = fleet.command("b1", "pause")
    assert gone.returncode == ExitCode.COMMAND_FAILED
    assert "is gone (clean)" in gone.stderr
    assert not fleet.config.with_name("audit.db").exists()


def test_what_cannot_be_noted_is_not_sent(fleet: Fleet, telemetry: Callable[[], Telemetry]):
    fleet.config.with_name("audit.db").write_bytes(b"another program's file" * 100)
    said = fleet.command("b1", "pause")
    assert said.returncode == ExitCode.STATE_UNUSABLE
    before = steps(telemetry())
    fleet.config.with_name("audit.db").unlink()
    assert fleet.command("b1", "resume").returncode == 0
    assert telemetry().counters["commands_accepted"] == 1
    assert steps(telemetry()) >= before


def test_the_learners_commands_are_on_record_too(fleet: Fleet, telemetry: Callable[[], Telemetry]):
    fleet.learner.process.terminate()
    fleet.learner.process.wait(120)
    log = fleet.folder / "state/audit.db"
    shown = subprocess.run(
        [EDGERL, "audit", "show", "--db", log, "--format", "json"], capture_output=True, text=True, check=True
    )
    rows = json.loads(shown.stdout)
    assert [row["kind"] for row in rows][:2] == ["command", "answer"]
    assert {row["board"] for row in rows} == {"b1"}
    assert json.loads(rows[0]["command"])["type"] == "pause"
    assert rows[1]["problem"] == ""
    verified = subprocess.run([EDGERL, "audit", "verify", "--db", log], capture_output=True, text=True, check=True)
    assert "whole; head " in verified.stdout


def test_a_forged_audit_ends_with_its_own_exit_code(fleet: Fleet):
    log = fleet.hardened.folder.private / "audit.db"
    root = log.parents[1]
    verify = [EDGERL, "audit", "verify", "--dir", root]
    assert subprocess.run(verify, capture_output=True, check=False).returncode == 0
    with closing(sqlite3.connect(log)) as database:
        database.executescript("DROP TRIGGER no_change; UPDATE entry SET details = '{}' WHERE id = 2;")
    said = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert said.returncode == ExitCode.AUDIT_BROKEN
    assert "entry 2 was changed" in said.stderr
