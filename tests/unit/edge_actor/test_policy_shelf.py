"""Newer policies replace older ones, and one that failed here never runs here again."""

import pytest
from policies import make_shelf

from edge_actor.policy_shelf import HeldPolicy
from fleet_protocol.clock import kernel_boot_id
from fleet_protocol.messages import FrameHeader
from fleet_protocol.signing import FrameRefused


def make_policy(
    version: int, *, content: int | None = None, group: str = "all", kernel: str = "", issued_ns: int = 0
) -> HeldPolicy:
    header = FrameHeader(
        kind="policy",
        issuer="learner",
        run_id="r",
        version=version,
        target=group,
        issued_at=0.0,
        expires_at=1.0,
        size=1,
        sha256=(version if content is None else content).to_bytes(32, "big"),
        issued_monotonic_ns=issued_ns,
        kernel_boot_id=kernel,
    )
    return HeldPolicy(header, b"x")


def test_the_newest_accepted_policy_is_the_one_to_run():
    shelf = make_shelf()
    assert shelf.newest is None
    for version in (3, 4, 9):
        shelf.accept(make_policy(version))
        assert shelf.newest is not None
        assert shelf.newest.version == version


@pytest.mark.parametrize("version", [1, 4, 5])
def test_one_that_is_not_newer_is_refused(version: int):
    shelf = make_shelf()
    shelf.accept(make_policy(5))
    with pytest.raises(FrameRefused) as refusal:
        shelf.accept(make_policy(version, content=99))
    assert refusal.value.reason == "not_newer"
    assert shelf.newest == make_policy(5)


def test_what_failed_here_never_runs_again_not_even_under_a_newer_version():
    shelf = make_shelf()
    shelf.accept(make_policy(1))
    shelf.prove(make_policy(1))
    shelf.accept(make_policy(2))
    shelf.quarantine(make_policy(2))
    assert shelf.newest == make_policy(1)
    with pytest.raises(FrameRefused) as refusal:
        shelf.accept(make_policy(3, content=2))
    assert refusal.value.reason == "quarantined"
    assert (shelf.newest, shelf.highest_seen) == (make_policy(1), 3)
    shelf.accept(make_policy(4))
    assert shelf.newest == make_policy(4)


def test_a_late_quarantine_of_an_older_policy_leaves_the_newest_alone():
    shelf = make_shelf()
    for version in (1, 2):
        shelf.accept(make_policy(version))
    shelf.quarantine(make_policy(1))
    assert shelf.newest == make_policy(2)


def test_without_a_proved_policy_a_quarantine_leaves_none():
    shelf = make_shelf()
    shelf.accept(make_policy(1))
    shelf.quarantine(make_policy(1))
    assert shelf.newest is None


def test_the_last_good_policy_never_goes_back():
    shelf = make_shelf()
    for version in (2, 1):
        shelf.prove(make_policy(version))
    assert shelf.last_good == make_policy(2)


def test_a_new_run_begins_with_an_empty_shelf_but_remembers_what_failed():
    shelf = make_shelf()
    shelf.accept(make_policy(8))
    shelf.quarantine(make_policy(8))
    shelf.begin_run()
    assert (shelf.newest, shelf.last_good, shelf.highest_seen) == (None, None, 0)
    with pytest.raises(FrameRefused):
        shelf.accept(make_policy(1, content=8))
    shelf.accept(make_policy(1))
    assert shelf.newest == make_policy(1)


def test_the_learners_clock_is_believed_on_its_own_machine_alone():
    assert make_policy(1, kernel="another machine", issued_ns=5).issued_monotonic_ns == 0
    assert make_policy(1, kernel="", issued_ns=5).issued_monotonic_ns == 0
    assert make_policy(1, kernel=kernel_boot_id(), issued_ns=5).issued_monotonic_ns == (5 if kernel_boot_id() else 0)
