"""A recorded board in plain sentences, for people."""

from collections.abc import Iterator
from typing import Final

from fleet_monitor.conditions import power_words, vitals
from fleet_monitor.listing import BoardRow, HealthRow, LatencyRow

_STATES: Final = {
    "online": "is online",
    "stale": "is silent",
    "offline": "is off: it said goodbye",
    "lost": "is lost: its connection broke",
}
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400


def describe(board: BoardRow) -> Iterator[str]:
    """One sentence a line: is it there, what does it do, how is it, what is wrong."""
    yield f"{board.board_id} {_STATES.get(board.state, board.state)}; {_heard(board.age_s)}."
    if board.problem:
        yield f"It does not act: {board.problem}"
    if board.run_id:
        acts, pace = ("acts", f", {board.steps_per_s:,.0f} a second now") if board.state == "online" else ("acted", "")
        runtime = f" on {board.runtime}" if board.runtime else ""
        yield (
            f"It {acts} in run {board.run_id} with policy {board.policy_version}{runtime}: "
            f"{board.env_steps:,} steps{pace}."
        )
        yield f"Of {board.produced:,} windows {board.dropped:,} were dropped, and {board.in_outbox:,} wait to be acked."
    yield f"Its agent takes {board.pss_mb:.0f} MB." + (f" {told}." if (told := vitals(board.health)) else "")
    yield f"Its health: {what_is_wrong(board) or 'nothing wrong is known'}."


def list_row(board: BoardRow) -> dict[str, object]:
    """A board as a line of the fleet's table; None for what is not known."""
    return {
        "board": board.board_id,
        "state": board.state,
        "last heard": "never" if board.age_s is None else f"{age(board.age_s)} ago",
        "policy": board.policy_version or None,
        "steps": board.env_steps,
        "steps/s": round(board.steps_per_s),
        "dropped": board.dropped,
        "unacked": board.in_outbox,
        "CPU %": _rounded(board.cpu_percent),
        "C": _rounded(board.temperature_c),
        "what is wrong": "; ".join(filter(None, [board.problem, what_is_wrong(board)])) or "nothing known",
    }


def latency_row(latency: LatencyRow) -> dict[str, object]:
    """The latencies of one measure in one interval, as a line of a table."""
    return {
        "measure": latency.measure,
        "when": f"{age(latency.age_s)} ago",
        "count": latency.count,
        "p50": latency.p50,
        "p95": latency.p95,
        "p99": latency.p99,
        "max": latency.maximum,
    }


def health_row(health: HealthRow) -> dict[str, object]:
    """How a board was at the end of one interval, as a line of a table; None for what it cannot tell."""
    power = None if health.throttled is None else ", ".join(power_words(health.throttled)) or "good"
    return {
        "when": f"{age(health.age_s)} ago",
        "CPU %": _rounded(health.cpu_percent),
        "MHz": _rounded(health.cpu_mhz),
        "C": _rounded(health.temperature_c),
        "power": power,
        "memory MB": _rounded(health.memory_available_mb),
        "disk MB": _rounded(health.disk_free_mb),
        "Wi-Fi dBm": _rounded(health.wifi_dbm),
        "agent MB": _rounded(health.pss_mb),
    }


def what_is_wrong(board: BoardRow) -> str:
    """The board's conditions as one phrase; empty when there are none."""
    phrase = "; ".join(board.conditions)
    return f"when last heard, {phrase}" if phrase and board.state != "online" else phrase


def age(seconds: float) -> str:
    """An age as people say it."""
    for unit_s, unit in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _heard(age_s: float | None) -> str:
    return "it was never heard" if age_s is None else f"last heard {age(age_s)} ago"


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
