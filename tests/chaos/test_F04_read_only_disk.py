"""F4: a disk that turns read-only in mid-run, as a failing card does: counted, acting goes on, no crash loop.

Means: a shim under the real programs refuses changes of one folder with EROFS (`faulty_machine.py`), of
every kind, in open files too: what a kernel does that finds an error (`errors=remount-ro`). A remount by hand is
refused while a file is open, and so would show less.
Not shown: a disk whose reads fail too.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "integration"))
import failing_disk
from failing_disk import SpoiledFleet
from faulty_machine import READ_ONLY

from edgerl.broker import RunningBroker


@pytest.fixture
def fleet(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
) -> Iterator[SpoiledFleet]:
    with SpoiledFleet(mosquitto, fleet_name, tmp_path, wait_until) as made:
        yield made


def test_F4_a_board_acts_on_counts_and_writes_again_when_it_can(fleet: SpoiledFleet):
    failing_disk.board_acts_on_and_recovers(fleet, READ_ONLY)


@pytest.mark.thorough
@pytest.mark.parametrize("changes", [range(6), range(6, 30, 4), range(30, 72, 7)], ids=str)
def test_F4_a_refusal_at_any_change_spoils_nothing_on_a_boards_disk(fleet: SpoiledFleet, changes: range):
    failing_disk.boards_survive_a_refusal_at_each_change(fleet, READ_ONLY, changes=changes)


@pytest.mark.thorough
def test_F4_a_learner_learns_on_says_so_and_saves_again_when_it_can(fleet: SpoiledFleet):
    failing_disk.learner_learns_on_and_recovers(fleet, READ_ONLY)


@pytest.mark.thorough
def test_F4_a_learner_that_ends_on_such_a_disk_reports_and_gives_no_command_without_its_audit(fleet: SpoiledFleet):
    failing_disk.learner_ends_on_a_disk_that_refuses(fleet, READ_ONLY)


@pytest.mark.thorough
def test_F4_a_refusal_at_any_change_leaves_a_learner_its_last_checkpoint(fleet: SpoiledFleet):
    failing_disk.learner_resumes_after_a_refusal_at_each_change(fleet, READ_ONLY, changes=range(9))


def test_F4_a_monitor_goes_on_says_so_and_records_again_when_it_can(fleet: SpoiledFleet):
    failing_disk.monitor_goes_on_and_recovers(fleet, READ_ONLY)
