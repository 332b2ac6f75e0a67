"""F19: the learner dies at a step of its own, and the accounts say exactly what that cost (D3, D4)."""

import functools
import importlib
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from accounts import PATIENT, Accounts
from fleet_processes import board, learner
from running_swarm import RunningSwarm

from edgerl.broker import RunningBroker

Step = tuple[str, str]

KILLED_AT: Final = str(Path(__file__).with_name("killed_at.py"))
LEARNER: Final = (*PATIENT, "--checkpoint-every-s", "1")
STEPS: Final[dict[str, Step]] = {
    "before a window is inserted": ("cloud_learner.trajectory_queue:TrajectoryQueue.put", "before"),
    "after a window was inserted": ("cloud_learner.trajectory_queue:TrajectoryQueue.put", "after"),
    "after an update, before its marks": ("cloud_learner.delivery_ledger:DeliveryLedger.mark_learned", "before"),
    "after the first mark of a batch": ("cloud_learner.delivery_ledger:DeliveryLedger.mark_learned", "after"),
    "after the marks, before the ack": ("cloud_learner.fleet_link:FleetLink.send_acks", "before"),
    "after the ack, before a checkpoint": ("cloud_learner.fleet_link:FleetLink.send_acks", "after"),
    "before a checkpoint": ("cloud_learner.saved_run:SavedRun.save", "before"),
    "before a checkpoint's bytes": ("torch:save", "before"),
    "with a checkpoint's bytes in the draft": ("torch:save", "after"),
    "before a checkpoint is renamed": ("pathlib:Path.replace", "before"),
    "after a checkpoint was renamed, before its folder is synced": ("cloud_learner.checkpoints:sync_folder", "before"),
    "after a checkpoint": ("cloud_learner.saved_run:SavedRun.save", "after"),
    "before a policy is numbered": ("cloud_learner.checkpoints:VersionCounter.next", "before"),
    "after a policy was numbered": ("cloud_learner.checkpoints:VersionCounter.next", "after"),
    "before a policy is published": ("cloud_learner.fleet_link:FleetLink.publish_policy", "before"),
    "after a policy was published": ("cloud_learner.fleet_link:FleetLink.publish_policy", "after"),
    "before a heartbeat": ("cloud_learner.fleet_link:FleetLink.publish_report", "before"),
}
AT_ITS_START: Final[dict[str, Step]] = {
    "before its run is published": ("cloud_learner.fleet_link:FleetLink.publish_run", "before"),
    "after its run was published": ("cloud_learner.fleet_link:FleetLink.publish_run", "after"),
    "before versions are reserved": ("cloud_learner.checkpoints:StateFolder.reserve_versions", "before"),
    "after versions were reserved": ("cloud_learner.checkpoints:StateFolder.reserve_versions", "after"),
}
AT_ITS_END: Final[dict[str, Step]] = {
    "before boards are brought to rest": ("cloud_learner.settlement:Settlement.rest_boards", "before"),
    "after boards were brought to rest": ("cloud_learner.settlement:Settlement.rest_boards", "after"),
    "before its report": ("cloud_learner.run_report:write_report", "before"),
}


class Killing:
    """Learners that die one after the other, each at its step, while boards go on."""

    def __init__(self, folder: Path, broker: RunningBroker, fleet: str, wait_until: Callable[..., None]) -> None:
        self._folder, self._broker, self._fleet, self._wait_until = folder, broker, fleet, wait_until

    def at(self, step: Step, accounts: Accounts, *flags: str, armed_at_start: bool = False) -> None:
        """Start a learner, and have it die."""
        armed = self._folder / "armed"
        if armed_at_start:
            armed.touch()
        acked = accounts.count_acked()
        with learner(
            self._folder, self._broker.address, self._fleet, *LEARNER, *flags, through=(KILLED_AT, *step, str(armed))
        ) as dying:
            if not armed_at_start:
                self._wait_until(
                    lambda: accounts.count_acked() >= acked + 10 or dying.process.poll() is not None,
                    timeout_s=90,
                    what="acks",
                )
                assert dying.process.poll() is None, dying.said()  # it is not its time yet
                self._wait_until((self._folder / "state/checkpoint.pt").exists, timeout_s=30, what="a checkpoint")
                armed.touch()
            assert dying.process.wait(60) == -signal.SIGKILL, dying.said()
        armed.unlink()
        assert "Traceback" not in dying.said(), dying.said()


@pytest.fixture
def killing(tmp_path: Path, mosquitto: RunningBroker, fleet_name: str, wait_until: Callable[..., None]) -> Killing:
    return Killing(tmp_path, mosquitto, fleet_name, wait_until)


@pytest.mark.everyday
def test_every_step_is_a_function_that_there_is():
    for step, _ in (STEPS | AT_ITS_START | AT_ITS_END).values():
        module, _, path = step.partition(":")
        assert callable(functools.reduce(getattr, path.split("."), importlib.import_module(module)))


@pytest.mark.everyday
def test_F19_a_learner_killed_between_insert_ack_and_checkpoint_loses_exactly_what_it_says(
    killing: Killing, mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
):
    steps = ["after a window was inserted", "after the marks, before the ack", "after the ack, before a checkpoint"]
    with Accounts(mosquitto.address, fleet_name) as accounts, board(tmp_path, mosquitto.address, fleet_name, "b1"):
        for name in steps:
            killing.at(STEPS[name], accounts)
        accounts.close(tmp_path, wait_until)
        assert accounts.versions == sorted(set(accounts.versions))


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_F19_a_learner_killed_at_each_step_of_its_loop_in_turn(
    killing: Killing, mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
):
    with ExitStack() as stack:
        accounts = stack.enter_context(Accounts(mosquitto.address, fleet_name))
        for name in ("b1", "b2"):
            stack.enter_context(board(tmp_path, mosquitto.address, fleet_name, name))
        for step in STEPS.values():
            killing.at(step, accounts)
        report = accounts.close(tmp_path, wait_until)
        assert accounts.versions == sorted(set(accounts.versions))
    assert report["trajectories"]["lost_window"] > 0  # some died between an ack and a checkpoint


@pytest.mark.timeout(600)
def test_F19_a_learner_killed_at_its_start_or_end_is_followed_by_one_that_goes_on(
    killing: Killing, mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
):
    with (
        Accounts(mosquitto.address, fleet_name) as accounts,
        board(tmp_path, mosquitto.address, fleet_name, "b1"),
    ):
        killing.at(STEPS["before a heartbeat"], accounts)  # so that there is a run to go on with
        for step in AT_ITS_START.values():
            killing.at(step, accounts, armed_at_start=True)
        for step in AT_ITS_END.values():
            killing.at(step, accounts, "--time-limit-s", "2", armed_at_start=True)
        accounts.close(tmp_path, wait_until)
        assert accounts.versions == sorted(set(accounts.versions))


@pytest.mark.thorough
@pytest.mark.timeout(1200)
def test_F19_twenty_boards_and_a_learner_killed_at_each_step_of_its_loop(
    killing: Killing, mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
):
    with ExitStack() as stack:
        accounts = stack.enter_context(Accounts(mosquitto.address, fleet_name))
        for name in ("b1", "b2"):
            stack.enter_context(board(tmp_path, mosquitto.address, fleet_name, name))
        stack.enter_context(RunningSwarm(tmp_path, mosquitto.address, fleet_name, 18, "--period-s", "0.3"))
        for step in STEPS.values():
            killing.at(step, accounts, "--batch-windows", "8")
        report = accounts.close(tmp_path, wait_until, "--batch-windows", "8")
        assert accounts.versions == sorted(set(accounts.versions))
    assert report["trajectories"]["lost_window"] > 0
