"""The report of a run: one JSON object, whose totals add up."""

import json
import math
from pathlib import Path
from typing import Any

from cloud_learner.board_book import BoardBook, merged_sketch
from cloud_learner.config import LearnerSettings
from cloud_learner.delivery_ledger import DeliveryLedger
from cloud_learner.intake import Intake
from cloud_learner.policy_outlet import PolicyOutlet
from cloud_learner.progress import Progress
from fleet_protocol.commands import EvaluationResult
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import Telemetry
from fleet_protocol.sketch import LatencySketch

_BOARD_MEASURES = (
    "inference_us",
    "env_step_us",
    "step_us",
    "encode_us",
    "policy_load_ms",
    "publish_to_ack_ms",
    "swap_us",
)


def make_report(
    settings: LearnerSettings,
    *,
    run_id: str,
    wall_s: float,
    progress: Progress,
    outlet: PolicyOutlet | None,
    ledger: DeliveryLedger,
    intake: Intake,
    book: BoardBook,
    evaluation: EvaluationResult | None,
) -> dict[str, Any]:
    """Put the report together; the fields are described in docs/protocol.md."""
    telemetry = book.telemetry()
    every_boot = [report for reports in telemetry.values() for report in reports]
    totals = ledger.totals()
    lag = progress.policy_lag
    newest = progress.newest
    publisher = outlet.publisher if outlet else None
    of_all = outlet.publisher.compressors[outlet.group] if outlet else None
    return {
        "schema": 1,
        "run_id": run_id,
        "env_id": settings.env_id,
        "target_return": settings.target_return,
        "reached": progress.reached_at > 0,
        "wall_s": wall_s,
        "time_to_target_s": progress.time_to_target_s,
        "env_steps": progress.env_steps,
        "episodes": progress.episodes,
        "learner_updates": progress.updates,
        "return_mean_100": progress.return_mean_100,
        "recipe": settings.recipe,
        "corrector": "vtrace",
        "evaluation": _evaluation(evaluation),
        "policies": {
            "published": publisher.published if publisher else 0,
            "bytes": of_all.model_bytes if of_all else 0,
            "export_ms": percentiles(publisher.export_ms if publisher else LatencySketch()),
            "publish_to_act_ms": percentiles(merged_sketch(every_boot, "publish_to_act_ms")),
            "stand_ins": of_all.stand_ins if of_all else 0,
            "kl": of_all.divergence if of_all else None,
            "classes": outlet.choice.report() if outlet and outlet.choice else [],
        },
        "trajectories": {
            "produced": totals.produced,
            "learned": totals.learned,
            "dropped": {"stale": 0, "invalid": 0, "outbox_full": 0} | totals.dropped,
            "in_outbox": totals.in_outbox,
            "lost_window": totals.lost_window,
            "received": totals.received,
            "refused": totals.refused,
            "duplicates": totals.duplicates,
            "queued": totals.queued,
            "add_up": totals.add_up,
            "bytes_per_step": intake.trajectory_bytes / max(1, intake.trajectory_steps),
        },
        "ignored": dict(intake.counters),
        "policy_lag": {"mean": lag.mean, "p95": lag.p95, "max": lag.max} if lag else None,
        "correction": {
            "kl": _finite(newest.kl),
            "effective_sample_size": _finite(newest.effective_sample_size),
            "clip_share": _finite(newest.clip_share),
            "entropy": _finite(newest.entropy),
            "explained_variance": _finite(newest.explained_variance),
        }
        if newest
        else None,
        "learner": {
            "update_ms": percentiles(progress.update_ms),
            "busy_ratio": progress.busy_ratio,
            "state_refusals": progress.state_refusals,
        },
        "boards": {
            board_id: _board(reports, run_id, set_aside=book.odd_windows(board_id))
            for board_id, reports in telemetry.items()
        },
    }


def percentiles(sketch: LatencySketch) -> dict[str, float]:
    """p50, p95, p99 and the count; empty for an empty sketch."""
    if not sketch.count:
        return {}
    return {
        "p50": sketch.quantile(0.5),
        "p95": sketch.quantile(0.95),
        "p99": sketch.quantile(0.99),
        "max": sketch.maximum,
        "count": sketch.count,
    }


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write the report.

    Raises:
        ProgramError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ProgramError(ExitCode.STATE_UNUSABLE, f"cannot write the report {path}: {error.strerror}") from error


def _evaluation(result: EvaluationResult | None) -> dict[str, Any] | None:
    if result is None or not result.returns:
        return None
    return {
        "episodes": len(result.returns),
        "return_mean": math.fsum(result.returns) / len(result.returns),
        "return_min": min(result.returns),
        "policy_version": result.policy_version,
    }


def _board(reports: list[Telemetry], run_id: str, *, set_aside: int) -> dict[str, Any]:
    counters: dict[str, int] = {}
    for report in reports:
        for name, count in report.counters.items():
            counters[name] = counters.get(name, 0) + count
    measures = {name: percentiles(merged_sketch(reports, name)) for name in _BOARD_MEASURES}
    return {
        "env_steps": sum(report.runs[run_id].env_steps for report in reports),
        **measures,
        "pss_mb": max(report.health.pss_mb for report in reports),
        "policy_group": reports[-1].policy_group,
        "set_aside": set_aside,
        "counters": {name: count for name, count in counters.items() if count},
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
