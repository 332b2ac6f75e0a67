"""From weights to boards: compress, frame, publish; on a thread of its own, bounded in bytes per second."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from msgspec import to_builtins
from numpy.typing import NDArray

from cloud_learner.calibration import imagined_observations
from cloud_learner.checkpoints import StateUnwritable, VersionCounter
from compressor import CompressedPolicy, CompressionRecipe, PolicyGraph, Precision, WeightScales, compress
from fleet_protocol.signing import Signer, seal_frame
from fleet_protocol.sketch import LatencySketch
from fleet_protocol.spaces import BoxSpec, SpaceSpec
from fleet_protocol.trajectory import Head

_log = logging.getLogger(__name__)

_GRID_LIMIT = 127
_HEADROOM = 1.5
_SMALLEST_REACH = 2.0
_DISK_RETRY_S = 1.0
_SCALED_BY_ROW = (Precision.INT8_DYNAMIC, Precision.INT8)
"""Their matrices under float activations have a scale for each row, unless the recipe says otherwise."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A policy as it was at one moment.

    Attributes:
        graph: A copy that later updates do not touch.
        largest_logit: Largest logit difference lately, from which boards take their first grid.
        calibration: Recent observations as the policy sees them, for recipes that are calibrated; None before the first
            batch.
    """

    graph: PolicyGraph
    largest_logit: float
    calibration: NDArray[Any] | None = None


class PolicyPublisher:
    """Publishes the newest snapshot offered; older ones that did not get their turn are forgotten.

    Args:
        publish: Takes a group and a framed policy.
        versions: Numbers the policies.
        run_id: The run.
        group: The boards' group.
        recipe: How to compress.
        head: Kind of head.
        spaces: Observation and action space, for the file's metadata.
        frame_stack: Observations that make what the policy sees, for the metadata too.
        has_old_runtime: Whether a live board runs a runtime that cannot read a scale for each row.
        max_bytes_per_s: Bound on what is published.
        signer: What signs the frames now; None leaves them unsigned.

    Attributes:
        version: The newest published version, 0 before the first.
        published: Policies published by this process.
        model_bytes: Size of the newest file.
        export_ms: Weights to bytes.
    """

    def __init__(
        self,
        publish: Callable[[str, bytes], None],
        *,
        versions: VersionCounter,
        run_id: str,
        group: str,
        recipe: CompressionRecipe,
        head: Head,
        spaces: tuple[BoxSpec, SpaceSpec],
        frame_stack: int,
        has_old_runtime: Callable[[], bool],
        max_bytes_per_s: float,
        signer: Callable[[], Signer | None] = lambda: None,
    ) -> None:
        self._publish = publish
        self._versions = versions
        self._run_id = run_id
        self._group = group
        self._recipe = recipe
        self._head: Head = head
        self._spaces = spaces
        self._frame_stack = frame_stack
        self._has_old_runtime = has_old_runtime
        self._max_bytes_per_s = max_bytes_per_s
        self._signer = signer
        self._changed = threading.Condition()
        self._offered: Snapshot | None = None
        self._busy = False
        self._closing = False
        self._not_before = 0.0
        self._told_old_runtime = False
        self._failure: Exception | None = None
        self.version = 0
        self.published = 0
        self.model_bytes = 0
        self.export_ms = LatencySketch()
        self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout=5)

    def offer(self, snapshot: Snapshot) -> None:
        """Have this published as soon as the bound allows."""
        self.raise_failure()
        with self._changed:
            self._offered = snapshot
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> int:
        """Wait until the newest offer is published, and return its version."""
        with self._changed:
            self._changed.wait_for(lambda: self._offered is None and not self._busy, timeout=timeout_s)
        self.raise_failure()
        return self.version

    def raise_failure(self) -> None:
        """Raise what went wrong on the publisher's thread."""
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._offered is not None or self._closing)
                if self._closing:
                    return
                wait = self._not_before - time.monotonic()
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                snapshot, self._offered, self._busy = self._offered, None, True
            assert snapshot is not None  # noqa: S101 - waited for above
            try:
                self._publish_one(snapshot)
            except StateUnwritable:  # no number may be given away that is not reserved; the folder has warned
                self._offer_again(snapshot)
            except Exception as error:  # noqa: BLE001 - raised again by raise_failure
                self._failure = error
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _offer_again(self, snapshot: Snapshot) -> None:
        with self._changed:
            self._offered = self._offered or snapshot
            self._not_before = time.monotonic() + _DISK_RETRY_S

    def _publish_one(self, snapshot: Snapshot) -> None:
        version = self._versions.next()
        policy = self._compress(snapshot, version)
        frame = seal_frame(
            policy.model,
            kind="policy",
            version=version,
            run_id=self._run_id,
            target=self._group,
            issued_monotonic_ns=time.monotonic_ns(),
            signer=self._signer(),
        )
        # The version counts as published before boards can answer with it.
        self.version = version
        self._publish(self._group, frame)
        self._not_before = time.monotonic() + len(frame) / self._max_bytes_per_s
        self.published += 1
        self.model_bytes = len(policy.model)
        self.export_ms.add(policy.export_ms)

    def _compress(self, snapshot: Snapshot, version: int) -> CompressedPolicy:
        recipe, graph, calibration = self._fleets_recipe(), snapshot.graph, snapshot.calibration
        if recipe.needs_calibration and calibration is None:
            calibration = imagined_observations(graph)
        observation, action = self._spaces
        reach = max(_SMALLEST_REACH, _HEADROOM * snapshot.largest_logit)
        metadata: dict[str, object] = {
            "run_id": self._run_id,
            "policy_version": version,
            "head": self._head,
            "observation": to_builtins(observation),
            "action": to_builtins(action),
            "recipe": str(recipe),
            "wire_scale": reach / _GRID_LIMIT,
            "frame_stack": self._frame_stack,
            "state_size": graph.state_size,
        }
        return compress(
            graph,
            recipe,
            metadata=metadata,
            calibration=calibration if recipe.needs_calibration else None,
        )

    def _fleets_recipe(self) -> CompressionRecipe:
        """The recipe, coarser where a board of the fleet could not read its files."""
        if self._recipe.precision not in _SCALED_BY_ROW or not self._has_old_runtime():
            return self._recipe
        if not self._told_old_runtime:
            self._told_old_runtime = True
            _log.warning(
                "a board runs tflite-runtime, which cannot read a scale for each row: as long as it is there, policies "
                "have one scale for each matrix"
            )
        return replace(self._recipe, weight_scales=WeightScales.PER_TENSOR)
