"""From weights to boards: compress, frame, publish; on a thread of its own, bounded in bytes per second."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Self

from cloud_learner.checkpoints import StateUnwritable, VersionCounter
from cloud_learner.policy_compressor import PolicyCompressor, Snapshot
from fleet_protocol.messages import RunSpec
from fleet_protocol.signing import Signer, seal_frame
from fleet_protocol.sketch import LatencySketch

_log = logging.getLogger(__name__)

_DISK_RETRY_S = 1.0


class PolicyPublisher:
    """Publishes the newest snapshot offered; older ones that did not get their turn are forgotten.

    Args:
        publish: Takes a group and a framed policy.
        versions: Numbers the policies.
        run: What boards are told; it names their group.
        compressor: Makes the files of the run's group.
        max_bytes_per_s: Bound on what is published.
        signer: What signs the frames now; None leaves them unsigned.

    Attributes:
        compressors: What makes the files of each group.
        version: The newest published version, 0 before the first.
        versions: The same of each group, once there is one.
        published: Policies published by this process.
        export_ms: Weights to bytes.
    """

    def __init__(
        self,
        publish: Callable[[str, bytes], None],
        *,
        versions: VersionCounter,
        run: RunSpec,
        compressor: PolicyCompressor,
        max_bytes_per_s: float,
        signer: Callable[[], Signer | None] = lambda: None,
    ) -> None:
        self._publish = publish
        self._versions = versions
        self._run = run
        self._max_bytes_per_s = max_bytes_per_s
        self._signer = signer
        self._changed = threading.Condition()
        self._offered: Snapshot | None = None
        self._busy = False
        self._closing = False
        self._not_before = 0.0
        self._failure: Exception | None = None
        self.compressors = {run.group: compressor}
        self.version = 0
        self.versions: dict[str, int] = {}
        self.published = 0
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

    def add(self, group: str, compressor: PolicyCompressor) -> bool:
        """Publish to one more group from the next policy on; False where that is so already."""
        if group in self.compressors:
            return False
        self.compressors[group] = compressor
        return True

    def drop(self, group: str) -> None:
        """Publish to a group no longer; its last policy stays on the broker."""
        if self.compressors.pop(group, None) is not None:
            self.versions = {name: version for name, version in self.versions.items() if name != group}

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
        sent = sum(
            self._publish_to(group, compressor, snapshot, version)
            for group, compressor in list(self.compressors.items())
        )
        self._not_before = time.monotonic() + sent / self._max_bytes_per_s
        self.published += 1

    def _publish_to(self, group: str, compressor: PolicyCompressor, snapshot: Snapshot, version: int) -> int:
        policy = compressor.compress(snapshot, version)
        frame = seal_frame(
            policy.model,
            kind="policy",
            version=version,
            run_id=self._run.run_id,
            target=group,
            issued_monotonic_ns=time.monotonic_ns(),
            signer=self._signer(),
        )
        # The version counts as published before boards can answer with it.
        self.version = version
        self._publish(group, frame)
        if group in self.compressors:  # it may have been dropped meanwhile
            self.versions = {**self.versions, group: version}  # a new one, for other threads
        self.export_ms.add(policy.export_ms)
        return len(frame)
