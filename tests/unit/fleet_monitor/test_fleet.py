"""The live picture: which boards are there, what they do, and how fast; whatever comes, in whatever order."""

import pytest
from fleet_factories import HeardFleet, make_birth, make_death, make_telemetry, sketch_of

from fleet_monitor.fleet import STALE_AFTER_S
from fleet_protocol.messages import LearnerReport, LogLine, Problem, SketchState
from fleet_protocol.topics import TopicAddress


@pytest.fixture
def heard() -> HeardFleet:
    return HeardFleet()


def test_a_birth_makes_a_board_online(heard: HeardFleet):
    problem = Problem(code=8, sentence="no such environment")
    heard.hear(make_birth(problem=problem))
    assert heard.board().state == "online"
    assert heard.board().birth == make_birth(problem=problem)
    assert heard.board().problem == problem


@pytest.mark.parametrize(("reason", "state"), [("clean", "offline"), ("lost", "lost")])
def test_a_death_tells_goodbye_from_loss(heard: HeardFleet, reason: str, state: str):
    heard.hear(make_birth())
    heard.hear(make_death(reason=reason))
    assert heard.board().state == state


def test_a_death_of_a_board_never_seen_counts(heard: HeardFleet):
    heard.hear(make_death())
    assert heard.board().state == "lost"
    assert heard.board().age_s is None


def test_a_late_will_of_an_older_session_is_ignored(heard: HeardFleet):
    heard.hear(make_birth(session_id="session-2"))
    heard.hear(make_death(session_id="session-1"))
    assert heard.board().state == "online"


def test_a_birth_brings_a_dead_board_back(heard: HeardFleet):
    heard.hear(make_death())
    heard.hear(make_birth(boot_id="boot-2", session_id="session-2"))
    assert heard.board().state == "online"


def test_a_silent_board_is_stale_until_it_is_heard_again(heard: HeardFleet):
    heard.hear(make_birth())
    heard.now_s += STALE_AFTER_S + 0.1
    assert heard.board().state == "stale"
    assert heard.board().age_s == pytest.approx(STALE_AFTER_S + 0.1)
    heard.hear(make_telemetry())
    assert heard.board().state == "online"


def test_a_dead_board_stays_dead_however_long_it_is_silent(heard: HeardFleet):
    heard.hear(make_birth())
    heard.hear(make_death())
    heard.now_s += 100 * STALE_AFTER_S
    assert heard.board().state == "lost"


def test_the_rate_of_steps_is_that_of_the_last_second_or_more(heard: HeardFleet):
    heard.hear(make_telemetry(uptime_s=10.0, env_steps=1000))
    heard.hear(make_telemetry(uptime_s=10.1, env_steps=9000))
    assert heard.board().steps_per_s == 0
    heard.hear(make_telemetry(uptime_s=12.0, env_steps=4000))
    assert heard.board().steps_per_s == 1500


def test_a_new_boot_starts_the_rate_anew(heard: HeardFleet):
    heard.hear(make_telemetry(uptime_s=10.0, env_steps=1000))
    heard.hear(make_telemetry(uptime_s=12.0, env_steps=4000))
    heard.hear(make_telemetry(uptime_s=90.0, env_steps=5000, boot_id="boot-2"))
    assert heard.board().steps_per_s == 0


def test_a_dead_board_makes_no_steps(heard: HeardFleet):
    heard.hear(make_telemetry(uptime_s=10.0, env_steps=1000))
    heard.hear(make_telemetry(uptime_s=12.0, env_steps=4000))
    heard.hear(make_death())
    assert heard.board().steps_per_s == 0


def test_an_interval_holds_what_came_since_the_last(heard: HeardFleet):
    heard.hear(make_telemetry(sketches={"step_us": sketch_of([10.0] * 5)}))
    assert [interval.sketches["step_us"].count for interval in heard.fleet.intervals()] == [5]
    heard.hear(make_telemetry(sketches={"step_us": sketch_of([10.0] * 5 + [99.0] * 3)}))
    (interval,) = heard.fleet.intervals()
    assert interval.sketches["step_us"].count == 3
    assert interval.sketches["step_us"].quantile(0.5) == pytest.approx(99.0, rel=0.011)
    assert heard.fleet.intervals() == []


def test_the_interval_of_a_new_boot_is_the_whole_of_it(heard: HeardFleet):
    heard.hear(make_telemetry(sketches={"step_us": sketch_of([10.0] * 5)}))
    heard.fleet.intervals()
    heard.hear(make_telemetry(boot_id="boot-2", sketches={"step_us": sketch_of([10.0] * 7)}))
    (interval,) = heard.fleet.intervals()
    assert interval.boot_id == "boot-2"
    assert interval.sketches["step_us"].count == 7


def test_what_a_board_did_before_we_came_is_in_no_interval(heard: HeardFleet):
    heard.now_s += 60
    heard.hear(make_telemetry(uptime_s=3600.0, sketches={"step_us": sketch_of([10.0] * 5)}))
    assert heard.fleet.intervals() == []
    heard.hear(make_telemetry(uptime_s=3602.0, sketches={"step_us": sketch_of([10.0] * 6)}))
    assert [interval.sketches["step_us"].count for interval in heard.fleet.intervals()] == [1]


def test_the_learner_and_log_lines_are_kept(heard: HeardFleet):
    report = LearnerReport(
        run_id="run-1", generation=1, env_id="CartPole-v1", state="learning", versions={"all": 3}, heartbeat_s=1.0
    )
    line = LogLine(level="warning", at=0.0, text="the outbox is full")
    heard.hear(report)
    heard.hear(line)
    assert heard.fleet.view().learner == report
    assert heard.board().log == line


@pytest.mark.parametrize("kind", ["learner", "status", "telemetry", "log"])
@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x80", b"\xff" * 100], ids=["empty", "no msgpack", "{}", "junk"])
def test_garbage_is_counted_and_changes_nothing(heard: HeardFleet, kind: str, payload: bytes):
    heard.fleet.take(TopicAddress(kind, "b1"), payload)
    assert heard.fleet.view().ignored == {f"{kind}_undecodable": 1}
    assert heard.fleet.view().boards == []


def test_telemetry_that_decodes_but_makes_no_sense_is_counted(heard: HeardFleet):
    hostile = SketchState(count=1, maximum=1.0, indices=[10**6], counts=[1])
    heard.hear(make_telemetry(sketches={"step_us": hostile}))
    assert heard.fleet.view().ignored == {"telemetry_undecodable": 1}
    assert heard.fleet.view().boards == []


def test_a_message_on_another_boards_topic_is_counted(heard: HeardFleet):
    heard.hear(make_birth("b2"), board_id="b1")
    heard.hear(make_telemetry("b2"), board_id="b1")
    assert heard.fleet.view().ignored == {"status_undecodable": 1, "telemetry_undecodable": 1}
    assert heard.fleet.view().boards == []


def test_a_topic_that_is_not_for_us_is_counted(heard: HeardFleet):
    heard.fleet.take(TopicAddress("reply", "b1"), b"")
    assert heard.fleet.view().ignored == {"reply_unexpected": 1}
