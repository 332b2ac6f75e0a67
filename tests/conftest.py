"""What tests share: real brokers on free ports, a fleet of their own, and waiting for a condition."""

import hashlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import hypothesis
import pytest

from edgerl.broker import RunningBroker, start_broker
from edgerl.broker_command import BrokerKind
from fleet_protocol.exit_codes import ExitCode, ProgramError

ROOT: Final = Path(__file__).parents[1]

# Tests prove behaviour; how long an example takes says how busy the machine is.
hypothesis.settings.register_profile("edgerl", deadline=None)
hypothesis.settings.load_profile("edgerl")


@pytest.fixture(scope="session")
def tflite_python() -> Path:
    """A Python with tflite-runtime 2.14 and numpy 1, as a 32-bit board has them; its environment is made once."""
    if sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime 2.14 has no wheel for this Python: the newest that it has one for is 3.11")
    folder = ROOT / ".venv/tflite-runtime"
    recipe = [(ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "constraints.txt")]
    stamp, made_of = folder / "made-of", hashlib.sha256("".join(recipe).encode()).hexdigest()
    if not stamp.is_file() or stamp.read_text(encoding="ascii") != made_of:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        # The pinned numpy is the learner's; this environment is about having an older one.
        pins = [pin for pin in recipe[1].splitlines() if not pin.startswith(("numpy==", "ml_dtypes=="))]
        (folder / "constraints.txt").write_text("\n".join(pins), encoding="utf-8")
        install = [folder / "bin/pip", "install", "--quiet", "-c", folder / "constraints.txt"]
        subprocess.run([*install, "-e", f"{ROOT}[actor-tflite]"], check=True)
        stamp.write_text(made_of, encoding="ascii")
    return folder / "bin/python"


@pytest.fixture
def mosquitto() -> Iterator[RunningBroker]:
    """A mosquitto of the test's own; missing, it skips here and fails in CI."""
    yield from _broker("mosquitto")


@pytest.fixture
def amqtt_broker() -> Iterator[RunningBroker]:
    """An embedded broker of the test's own; missing, it skips here and fails in CI."""
    yield from _broker("amqtt")


@pytest.fixture(params=["mosquitto", "amqtt_broker"])
def any_broker(request: pytest.FixtureRequest) -> RunningBroker:
    """Each of both brokers in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def fleet_name() -> str:
    """A fleet that no other test uses."""
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Wait for a condition, and fail with a sentence when it does not come."""

    def wait(
        condition: Callable[[], object], *, timeout_s: float = 10.0, what: str | Callable[[], str] = "the condition"
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"{what() if callable(what) else what} did not come within {timeout_s} s")
            time.sleep(0.01)

    return wait


def _broker(kind: BrokerKind) -> Iterator[RunningBroker]:
    try:
        with start_broker(None, kind=kind) as broker:
            yield broker
    except ProgramError as error:
        if error.exit_code != ExitCode.DEPENDENCY_MISSING:
            raise
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))
