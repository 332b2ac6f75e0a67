"""F3: a disk that is full refuses data, at each write and in mid-run: counted, acting goes on, nothing is corrupted.

Means: a shim under the real programs refuses changes of one folder with ENOSPC (`faulty_machine.py`), data only,
as a full file system does: names can still be made and deleted, so that room can be made.
Not shown: quotas, and file systems that have no room for names either.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "integration"))
import failing_disk
from failing_disk import SpoiledFleet
from faulty_machine import DISK_FULL

from edgerl.broker import RunningBroker


@pytest.fixture
def fleet(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
) -> Iterator[SpoiledFleet]:
    with SpoiledFleet(mosquitto, fleet_name, tmp_path, wait_until) as made:
        yield made


def test_F3_a_board_acts_on_counts_and_writes_again_when_it_can(fleet: SpoiledFleet):
    failing_disk.board_acts_on_and_recovers(fleet, DISK_FULL)


@pytest.mark.parametrize(
    "changes",
    [range(6), *(pytest.param(changes, marks=pytest.mark.thorough) for changes in (range(6, 30, 4), range(30, 72, 7)))],
    ids=str,
)
def test_F3_a_refusal_at_any_change_spoils_nothing_on_a_boards_disk(fleet: SpoiledFleet, changes: range):
    failing_disk.boards_survive_a_refusal_at_each_change(fleet, DISK_FULL, changes=changes)


def test_F3_a_learner_learns_on_says_so_and_saves_again_when_it_can(fleet: SpoiledFleet):
    failing_disk.learner_learns_on_and_recovers(fleet, DISK_FULL)


def test_F3_a_learner_that_ends_on_such_a_disk_reports_and_gives_no_command_without_its_audit(fleet: SpoiledFleet):
    failing_disk.learner_ends_on_a_disk_that_refuses(fleet, DISK_FULL)


@pytest.mark.thorough
def test_F3_a_refusal_at_any_change_leaves_a_learner_its_last_checkpoint(fleet: SpoiledFleet):
    failing_disk.learner_resumes_after_a_refusal_at_each_change(fleet, DISK_FULL, changes=range(9))


def test_F3_a_monitor_goes_on_says_so_and_records_again_when_it_can(fleet: SpoiledFleet):
    failing_disk.monitor_goes_on_and_recovers(fleet, DISK_FULL)
