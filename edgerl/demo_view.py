"""What a person sees of a demo: a live picture while it runs, a table at its end."""

from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fleet_monitor.fleet import BoardView, FleetView
from fleet_protocol.sketch import LatencySketch


def live_view(view: FleetView, elapsed_s: float) -> RenderableType:
    """The learner's line, a bar towards the target, and a row for each board."""
    learner = view.learner
    if learner is None:
        return Text(f"{elapsed_s:5.1f} s  starting the learner (importing torch takes a few seconds) ...")
    boards = f"{sum(board.state == 'online' for board in view.boards)} boards online"
    mean = learner.return_mean_100
    line = Text(f"{elapsed_s:5.1f} s  {learner.state}; {boards}; ")
    line.append(
        f"{learner.env_steps:,} steps, {learner.learner_updates:,} updates, {learner.episodes:,} episodes, "
        f"policy {max(learner.versions.values(), default=0)}"
    )
    parts: list[RenderableType] = [line]
    if mean is not None:
        parts.append(Text(f"mean return of the last 100 episodes: {mean:.1f}"))
        if learner.target_return is not None and learner.target_return > 0:
            parts.append(ProgressBar(total=learner.target_return, completed=max(0.0, mean), width=60))
    if view.boards:
        parts.append(_boards_table(view.boards))
    return Group(*parts)


def final_table(report: dict[str, Any]) -> Table:
    """The end of a run, in a dozen lines."""
    table = Table(title="Reached" if report["reached"] else "Not reached", title_justify="left", show_header=False)
    evaluation, policies, windows = report["evaluation"], report["policies"], report["trajectories"]
    to_target, wall = _number(report["time_to_target_s"]), report["wall_s"]
    rows = {
        "task": f"{report['env_id']}, target {_number(report['target_return'])}",
        "time to target": f"{to_target} s from the first policy, {wall:.1f} s in all",
        "learned from": f"{report['env_steps']:,} steps in {report['learner_updates']:,} updates",
        "mean return, last 100 episodes": _number(report["return_mean_100"]),
        f"greedy evaluation ({report['recipe']}, on a board)": _evaluation(evaluation),
        "policies": f"{policies['published']} of {policies['bytes']} bytes, exported in "
        f"{_percentile(policies['export_ms'], 'p50')} ms (p50)",
        "publish to first action": f"p50 {_percentile(policies['publish_to_act_ms'], 'p50')} ms, "
        f"p99 {_percentile(policies['publish_to_act_ms'], 'p99')} ms",
        "windows": f"{windows['produced']} produced = {windows['learned']} learned + "
        f"{sum(windows['dropped'].values())} dropped + {windows['in_outbox']} in outboxes + "
        f"{windows['lost_window']} lost",
        "bytes per step": _number(windows["bytes_per_step"]),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    for board_id, board in report["boards"].items():
        table.add_row(
            board_id,
            f"{board['env_steps']:,} steps; inference {_percentile(board['inference_us'], 'p50')} us (p50), "
            f"{_percentile(board['inference_us'], 'p99')} us (p99); {board['pss_mb']:.0f} MB",
        )
    return table


def _boards_table(boards: list[BoardView]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("board", "state", "policy", "steps", "inference p50 us", "whole step p50 us", "memory MB"):
        table.add_column(name, justify="left" if name in ("board", "state") else "right")
    for board in boards:
        telemetry = board.telemetry
        steps = sum(run.env_steps for run in telemetry.runs.values()) if telemetry else 0
        table.add_row(
            board.board_id,
            board.problem.sentence if board.problem else board.state,
            str(telemetry.policy_version) if telemetry else "-",
            f"{steps:,}",
            _median(board, "inference_us"),
            _median(board, "step_us"),
            f"{telemetry.health.pss_mb:.0f}" if telemetry else "-",
        )
    return table


def _median(board: BoardView, name: str) -> str:
    state = board.telemetry.sketches.get(name) if board.telemetry else None
    return f"{LatencySketch.from_state(state).quantile(0.5):.1f}" if state and state.count else "-"


def _evaluation(evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return "none"
    mean, least = evaluation["return_mean"], evaluation["return_min"]
    return f"mean {mean:.1f}, least {least:.1f}, of {evaluation['episodes']} episodes"


def _percentile(percentiles: dict[str, float], name: str) -> str:
    return _number(percentiles.get(name))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
