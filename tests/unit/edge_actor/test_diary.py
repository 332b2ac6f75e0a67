"""What a board says of its troubles: once a minute each, and however many kinds a stranger invents, no memory."""

from pathlib import Path

import pytest

from edge_actor.board_health import BoardHealth
from edge_actor.diary import Diary
from fleet_protocol.messages import LogLine


@pytest.fixture
def said() -> list[LogLine]:
    return []


@pytest.fixture
def diary(said: list[LogLine], tmp_path: Path) -> Diary:
    return Diary("b1", "boot", period_s=1.0, send_log=said.append, health=BoardHealth(root=tmp_path))


def test_one_trouble_is_said_once_whatever_each_of_its_sentences_says(diary: Diary, said: list[LogLine]):
    for number in range(1000):
        diary.count("run_undecodable", f"ignored a message on run: {number}")
    assert [line.text for line in said] == ["ignored a message on run: 0"]
    assert diary.counters["run_undecodable"] == 1000


def test_different_troubles_are_said_each(diary: Diary, said: list[LogLine]):
    diary.count("run_undecodable", "one")
    diary.count("run_expired", "another")
    diary.warn("a third")
    diary.warn("a third")
    assert [line.text for line in said] == ["one", "another", "a third"]


def test_sentences_without_end_cost_no_memory(diary: Diary):
    for number in range(10_000):
        diary.warn(f"policy {number} has failed")
    assert len(diary._warned_at) <= 256
