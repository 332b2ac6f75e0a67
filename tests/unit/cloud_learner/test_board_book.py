"""What a learner knows of its boards: two agents of one name are seen, and no board can fill its memory."""

import pytest

from cloud_learner.board_book import BoardBook
from cloud_learner.delivery_ledger import MAX_BOOTS, DeliveryLedger
from fleet_protocol.codec import BadMessage
from fleet_protocol.messages import Birth, Death, Telemetry


def birth(boot: str, session: str) -> Birth:
    return Birth(board_id="b", boot_id=boot, session_id=session, software="test")


@pytest.mark.parametrize(
    ("boots", "is_cloned"),
    [
        ("A", False),
        ("AAAA", False),  # a connection that breaks
        ("ABCD", False),  # an agent that restarts
        ("AABBBC", False),
        ("ABA", True),
        ("AABBA", True),
        ("ABCB", True),
    ],
)
def test_a_boot_that_comes_back_after_another_is_a_clone(boots: str, is_cloned: bool):
    book = BoardBook("r", None)
    for number, boot in enumerate(boots):
        book.take_status(birth(boot, f"session-{number}"))
    assert ("b" in book.problems()) == is_cloned
    if is_cloned:
        assert "--board" in book.problems()["b"]


def test_a_will_between_two_births_changes_nothing():
    book = BoardBook("r", None)
    book.take_status(birth("A", "1"))
    book.take_status(Death(board_id="b", boot_id="A", session_id="1", reason="lost"))
    book.take_status(birth("A", "2"))
    assert book.problems() == {}


def test_a_board_that_always_starts_anew_takes_no_more_memory():
    book = BoardBook("r", None)
    for number in range(5000):
        book.take_status(birth(f"boot-{number}", "s"))
        book.take_telemetry(Telemetry(board_id="b", boot_id=f"boot-{number}", uptime_s=1.0))
    record = book._boards["b"]
    assert len(record.boots) == len(record.telemetry) == 256
    assert "boot-4999" in record.telemetry


def test_windows_of_too_many_boots_are_refused_and_change_no_account():
    ledger = DeliveryLedger()
    for number in range(MAX_BOOTS):
        assert ledger.admit(("b", f"boot-{number}"), 0, oldest_seq=0) == "new"
    with pytest.raises(BadMessage, match="more than 1000 starts"):
        ledger.admit(("b", "one too many"), 0, oldest_seq=0)
    assert ledger.admit(("b", "boot-3"), 1, oldest_seq=0) == "new"
    assert ledger.admit(("other", "boot"), 0, oldest_seq=0) == "new"
    assert ledger.totals().received == MAX_BOOTS + 2
    assert ledger.totals().add_up


def test_boots_are_counted_on_after_a_restart_of_the_learner():
    ledger = DeliveryLedger()
    for number in range(MAX_BOOTS):
        ledger.admit(("b", f"boot-{number}"), 0, oldest_seq=0)
    resumed = DeliveryLedger.from_state(ledger.state())
    with pytest.raises(BadMessage):
        resumed.admit(("b", "one too many"), 0, oldest_seq=0)
