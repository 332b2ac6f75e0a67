"""`edgerl broker run` and `start_broker`: a broker answers, ends with whoever started it, and says why it cannot."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from edgerl import broker as broker_module
from edgerl.broker import RunningBroker, free_port, start_broker
from fleet_protocol.address import BrokerAddress
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.mqtt import MqttConnection, Subscription

WaitUntil = Callable[..., None]
KINDS = ["mosquitto", "amqtt"]
BROKER_RUN = "from edgerl.cli import main; main()"
START_AND_WAIT = """
import sys, time
from edgerl.broker import start_broker
with start_broker(int(sys.argv[2]), kind=sys.argv[1]) as broker:
    print("started", flush=True)
    time.sleep(60)
"""


@contextmanager
def running(code: str, *arguments: str) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """A Python process, and the first line that it printed."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def broker_run(kind: str, port: int) -> "AbstractContextManager[tuple[subprocess.Popen[str], str]]":
    return running(BROKER_RUN, "broker", "run", "--port", str(port), "--kind", kind)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def child_of(process: "subprocess.Popen[str]") -> int:
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_broker_runs_until_it_is_told_to_end(kind: str, ending: signal.Signals, wait_until: WaitUntil):
    port = free_port()
    with broker_run(kind, port) as (program, first_line):
        assert first_line.startswith(f"{kind} ")
        assert f"at 127.0.0.1:{port}, loopback only" in first_line
        with MqttConnection(BrokerAddress("127.0.0.1", port), client_id="guest", subscriptions=[]) as guest:
            guest.wait_connected(10)
        program.send_signal(ending)
        assert program.wait(10) == ExitCode.OK
        assert program.stderr.read() == ""
    wait_until(lambda: not answers(port), what="the broker's end")


@pytest.mark.parametrize("kind", KINDS)
def test_a_taken_port_is_one_line(kind: str):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with broker_run(kind, port) as (program, _):
            assert program.wait(10) == ExitCode.PORT_IN_USE
            (line,) = program.stderr.read().splitlines()
    assert f"port {port} on 127.0.0.1" in line
    assert "choose another with --port" in line


@pytest.mark.parametrize("kind", KINDS)
def test_a_broker_that_does_not_come_up_says_why(kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(broker_module, "_require_free", lambda _address: None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        starting = start_broker(other.getsockname()[1], kind=kind)
        with pytest.raises(ProgramError, match="ddress already in use") as refusal:
            starting.__enter__()
    assert refusal.value.exit_code == ExitCode.PROCESS_DIED


def test_a_free_port_is_none_that_the_kernel_lends():
    first_lent = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 <= free_port() < first_lent for _ in range(100))


@pytest.mark.parametrize("kind", KINDS)
def test_a_broker_dies_with_a_killed_parent(
    kind: str, wait_until: WaitUntil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # a killed parent leaves its folder behind
    port = free_port()
    with running(START_AND_WAIT, kind, str(port)) as (parent, _):
        assert answers(port)
        parent.kill()
        wait_until(lambda: not answers(port), what="the broker's end")


@pytest.mark.parametrize("kind", KINDS)
def test_a_broker_that_dies_ends_the_program_with_its_last_words(kind: str):
    with broker_run(kind, free_port()) as (program, _):
        os.kill(child_of(program), signal.SIGKILL)
        assert program.wait(10) == ExitCode.PROCESS_DIED
        (line,) = program.stderr.read().splitlines()
    assert f"the broker {kind}" in line
    assert "ended with code -9: " in line


def test_ctrl_c_in_a_terminal_reaches_no_broker(any_broker: RunningBroker):
    assert os.getsid(any_broker.pid) == any_broker.pid != os.getsid(0)


def test_a_broker_listens_on_one_address_only(any_broker: RunningBroker):
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.2", any_broker.address.port)) != 0


def test_a_large_policy_passes(any_broker: RunningBroker, wait_until: WaitUntil):
    heard: list[bytes] = []
    policy = bytes(5_000_000)
    everything = Subscription("#", 1, lambda _topic, payload: heard.append(payload))
    with MqttConnection(any_broker.address, client_id="guest", subscriptions=[everything]) as guest:
        guest.wait_connected(10)
        guest.publish("policy", policy, retain=True)
        wait_until(lambda: policy in heard, what="the policy")


def test_mosquitto_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGERL_BROKER_KIND", "amqtt")
    with pytest.raises(ProgramError, match="apt install mosquitto") as refusal, start_broker(None, kind="mosquitto"):
        pass
    assert refusal.value.exit_code == ExitCode.DEPENDENCY_MISSING


def test_without_any_broker_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGERL_BROKER_KIND", "amqtt")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ProgramError, match=r"edgerl\[broker\]") as refusal, start_broker(None):
        pass
    assert refusal.value.exit_code == ExitCode.DEPENDENCY_MISSING


def test_without_mosquitto_auto_takes_amqtt(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGERL_BROKER_KIND", "amqtt")
    with start_broker(None) as broker:
        assert broker.kind == "amqtt"
