"""The fault matrix as a selection of tests: which of them run, and what is said of each fault afterwards.

`pytest` alone runs those marked `everyday`; `--chaos quick` adds all that are not marked `thorough`; `--chaos full` is
everything. A fault has passed when each of its tests that were selected has run and passed: one that was skipped, or
that an early end of the session left out, is no proof.
"""

import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgerl.fault_catalogue import fault_of, number_of, read_catalogue

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LONGEST_REASON = 300


@dataclass
class Verdict:
    """What the tests of one fault have shown; `waiting` are those that have not run."""

    waiting: set[str] = field(default_factory=set)
    reasons: list[str] = field(default_factory=list)
    tests: int = 0
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.waiting and not self.reasons

    @property
    def reason(self) -> str:
        unrun = [f"{name} did not run: the session ended early" for name in sorted(self.waiting)]
        return "; ".join([*self.reasons, *unrun])[:LONGEST_REASON]


VERDICTS = pytest.StashKey[dict[str, Verdict]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos", "the fault matrix")
    group.addoption("--chaos", choices=["quick", "full"], help="run so much of the matrix")
    group.addoption("--scenarios", default="", help="only these faults, e.g. F17,F18")
    group.addoption("--chaos-json", type=Path, help="write what became of each fault")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[VERDICTS] = {}
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # Started in a shell's background: programs under test would inherit that Ctrl-C means nothing.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if item.path.is_relative_to(HERE) and not is_selected(item, config)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def is_selected(item: pytest.Item, config: pytest.Config) -> bool:
    # Without our options (a run of all tests loads this file too late for them) getoption gives the default.
    chaos, only = config.getoption("chaos", None), config.getoption("scenarios", "")
    if only and fault_of(item.name) not in only.split(","):
        return False
    match chaos:
        case "full":
            return True
        case "quick":
            return item.get_closest_marker("thorough") is None
        case _:
            return item.get_closest_marker("everyday") is not None


def pytest_collection_finish(session: pytest.Session) -> None:
    verdicts = session.config.stash[VERDICTS]
    for item in session.items:
        fault = fault_of(item.name)
        if fault is not None and item.path.is_relative_to(HERE):
            verdict = verdicts.setdefault(fault, Verdict())
            verdict.waiting.add(item.name)
            verdict.tests += 1


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report: pytest.TestReport = yield
    verdict = item.config.stash[VERDICTS].get(fault_of(item.name) or "")
    if verdict is not None:
        verdict.seconds += call.duration
        if not report.passed:
            verdict.reasons.append(f"{item.name}: {reason_of(report)}")
        if report.when == "teardown":
            verdict.waiting.discard(item.name)
    return report


def reason_of(report: pytest.TestReport) -> str:
    """One line: why a test was skipped, or what it was that failed."""
    if report.skipped:
        why = report.longrepr[-1] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
        return f"skipped: {str(why).removeprefix('Skipped: ')}"
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = str(crash.message if crash else report.longrepr).strip().splitlines()
    return f"{lines[0] if lines else 'it failed'} ({report.when})"


def pytest_sessionfinish(session: pytest.Session) -> None:
    verdicts = session.config.stash[VERDICTS]
    scenarios = [
        {"id": fault, "passed": verdict.passed, "reason": verdict.reason} for fault, verdict in in_order(verdicts)
    ]
    target: Path | None = session.config.getoption("chaos_json", None)
    if target is not None:
        target.write_text(json.dumps({"schema": 1, "scenarios": scenarios}, indent=2) + "\n", encoding="utf-8")
    if session.config.getoption("chaos", None) and not all(scenario["passed"] for scenario in scenarios):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED  # a skip is no proof


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    verdicts = config.stash[VERDICTS]
    if not verdicts or not config.getoption("chaos", None):
        return
    meanings = {fault.id: fault.what for fault in read_catalogue(ROOT)}
    terminalreporter.section("fault matrix")
    for fault, verdict in in_order(verdicts):
        word = "passed" if verdict.passed else "FAILED"
        line = f"{fault:>4}  {word}  {verdict.tests:3d} tests  {verdict.seconds:6.1f} s  {meanings.get(fault, '?')}"
        terminalreporter.write_line(line, green=verdict.passed, red=not verdict.passed)
        if not verdict.passed:
            terminalreporter.write_line(f"      {verdict.reason}")


def in_order(verdicts: dict[str, Verdict]) -> list[tuple[str, Verdict]]:
    return sorted(verdicts.items(), key=lambda item: number_of(item[0]))
