"""What tests share: real brokers on free ports, a fleet of their own, and waiting for a condition."""

import os
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from edgerl.broker import RunningBroker, start_broker
from edgerl.broker_command import BrokerKind
from fleet_protocol.exit_codes import ExitCode, ProgramError


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

    def wait(condition: Callable[[], object], *, timeout_s: float = 10.0, what: str = "the condition") -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come within {timeout_s} s"
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
