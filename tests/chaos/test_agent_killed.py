"""F1 and F9: the agent dies at a step of a policy's way, or again and again: what acts then is a whole policy (D7)."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from hooked import KILL, KILL_THE_AGENT, SUPERVISOR, WORKER, Hook
from teacher import Teacher, policy_file, python_path

from edgerl.broker import RunningBroker, free_port
from fleet_protocol.address import BrokerAddress

__all__ = ["python_path"]


class Step(NamedTuple):
    """A step of a policy's way: the function that does it, and the process that it happens in."""

    function: str
    program: str = SUPERVISOR
    goes_wrong: bool = False


STEPS: Final[dict[str, Step]] = {
    "received": Step("edge_actor.admission:Admission.take"),
    "decoded": Step("edge_actor.frame_gate:FrameGate.open"),
    "verified": Step("edge_actor.policy_shelf:PolicyShelf.require_acceptable"),
    "child-run": Step("edge_actor.policy_checker:PolicyChecker._decide"),
    "swapped": Step("edge_actor.workforce:Workforce.load_newest"),
    "first-inference": Step("edge_actor.policy_seat:PolicySeat.take", WORKER),
    "probation": Step("edge_actor.policy_seat:PolicySeat.watch", WORKER),
    "proved": Step("edge_actor.policy_shelf:PolicyShelf.prove"),
    "persisted": Step("edge_actor.board_files:write_whole"),
    "persisted, the one before renamed": Step("edge_actor.board_files:BoardFiles.rename"),
    "rolled-back": Step("edge_actor.policy_shelf:PolicyShelf.quarantine", goes_wrong=True),
    "rolled-back, quarantine written": Step("edge_actor.quarantine:Quarantine.keep", goes_wrong=True),
}
NEW: Final = 2
OLD: Final = 1


@pytest.fixture
def hook(python_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hook:
    return Hook(python_path, monkeypatch)


@pytest.fixture
def teacher(
    python_path: Path, mosquitto: RunningBroker, fleet_name: str, wait_until: Callable[..., None]
) -> Iterator[Teacher]:
    with Teacher(python_path, mosquitto, fleet_name, wait_until, far=True) as teaching:
        yield teaching


def nowhere() -> BrokerAddress:
    return BrokerAddress("127.0.0.1", free_port())


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", STEPS)
def test_F1_an_agent_that_is_killed_at_a_step_acts_again_with_the_old_policy_or_the_new_one(
    teacher: Teacher, hook: Hook, wait_until: Callable[..., None], name: str, moment: str
):
    step = STEPS[name]
    hook.set(step.program, step.function, moment, KILL if step.program == SUPERVISOR else KILL_THE_AGENT)
    with teacher.act() as agent:
        teacher.publish(OLD)
        teacher.wait_until_kept(OLD)
        teacher.wait_until_acting(OLD)
        hook.armed.touch()
        teacher.publish(NEW, policy_file(NEW, wrong="nan" if step.goes_wrong else ""))
        teacher.die(agent)
        assert agent.process.returncode == -signal.SIGKILL, agent.said()
    hook.clear()
    teacher.forget_actions()
    with teacher.act(address=nowhere()) as agent:  # neither broker nor learner: what is on disk has to do
        wait_until(lambda: teacher.acting() in {OLD, NEW}, timeout_s=90, what="a policy acting")
        acting = teacher.acting()
        seen = len(teacher.actions())
        wait_until(lambda: len(teacher.actions()) > seen + 100, timeout_s=30, what="more steps")
        assert teacher.acting() == acting
    assert acting == OLD or not step.goes_wrong
    with teacher.act() as agent:  # the broker has retained the new one
        teacher.forget_actions()
        teacher.wait_until_acting(OLD if step.goes_wrong else NEW)
    assert "Traceback" not in agent.said()


def test_F9_an_agent_that_dies_with_what_it_kept_goes_back_one_policy_and_then_waits_for_the_learner(
    teacher: Teacher, hook: Hook
):
    deadly = "if getattr(arguments[0]._shelf.newest, 'version', 0) in (1, 2): os.kill(os.getpid(), signal.SIGKILL)"
    with teacher.act():
        teacher.publish(1)
        teacher.wait_until_kept(1)
        teacher.publish(2)
        teacher.wait_until_kept(2)
    hook.set(SUPERVISOR, "edge_actor.workforce:Workforce.load_newest", "before", deadly.replace("(1, 2)", "(2,)"))
    hook.armed.touch()
    for _ in range(3):
        with teacher.act() as agent:
            teacher.die(agent)
            assert agent.process.returncode == -signal.SIGKILL
    teacher.forget_actions()
    with teacher.act() as agent:
        teacher.wait_until_acting(1)
        teacher.wait_for_count("kept_policies_locked_away")
        teacher.wait_for_count("policy_quarantined")  # the broker has retained it
        agent.kill()
    hook.set(SUPERVISOR, "edge_actor.workforce:Workforce.load_newest", "before", deadly)
    (teacher.folder / "boards/b1/starts").unlink()
    for _ in range(6):
        with teacher.act() as agent:
            teacher.die(agent)
    teacher.forget_actions()
    with teacher.act() as agent:
        teacher.wait_for_count("kept_policies_locked_away", 2)
        assert (agent.process.poll(), teacher.actions()) == (None, b"")
        teacher.publish(3)
        teacher.wait_until_acting(3)
        teacher.wait_until_kept(3)
    hook.clear()
    teacher.forget_actions()
    with teacher.act(address=nowhere()):
        teacher.wait_until_acting(3)


def test_F9_ends_on_purpose_are_no_crashes(teacher: Teacher, wait_until: Callable[..., None]):
    with teacher.act() as agent:
        teacher.publish(1)
        teacher.wait_until_kept(1)
    for _ in range(4):
        agent.log.unlink()
        with teacher.act(address=nowhere()) as agent:
            wait_until(lambda agent=agent: "run r" in agent.said(), timeout_s=60, what="the beginning")
        assert agent.process.returncode == 0
    teacher.forget_actions()
    with teacher.act(address=nowhere()):
        teacher.wait_until_acting(1)
