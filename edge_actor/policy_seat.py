"""Who acts in a worker: the newest policy, watched until it has proved itself, and the last good one behind it (D7)."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_actor.policy import Policy
from edge_actor.policy_file import BadPolicyFile
from edge_actor.policy_trial import latency_budget_us, require_usable
from edge_actor.rollout import Timings
from edge_actor.worker_messages import PolicyVerdict
from fleet_protocol.messages import RunSpec
from fleet_protocol.trajectory import Trajectory

_PROBATION_STEPS: Final = 8
"""Few, because a learner with many boards may publish more often than a slow board ends a window: a policy that is
replaced before it has proved itself never becomes the last good one."""
_OBSERVATIONS: Final = 16
_TRIAL_S: Final = 0.001
"""Of processor time, once for each policy and between two windows: a step is not measured any longer."""


class PolicySeat:
    """Holds the acting policy of one worker.

    Whether outputs are finite is seen at every step, where actions are drawn. The rest is looked at when a window ends:
    until then a policy on probation costs nothing.

    Args:
        run: What is played.

    Attributes:
        policy: Acts; None where there is none, or none that may.
    """

    def __init__(self, run: RunSpec) -> None:
        self._run = run
        self.policy: Policy | None = None
        self._good: Policy | None = None
        self._good_us = 0.0
        self._watched_us: list[NDArray[np.float64]] | None = None

    def take(self, policy: Policy, *, is_good: bool) -> None:
        """Have a policy act; one that has proved itself elsewhere on this board is not watched."""
        self.policy = policy
        self._watched_us = None if is_good else []
        if is_good:
            self._good = policy

    def watch(self, trajectory: Trajectory, timings: Timings) -> PolicyVerdict | None:
        """At the end of a window, judge a policy on probation.

        Returns:
            What became of it; None while that is open, or nothing is on probation.
        """
        policy, watched_us = self.policy, self._watched_us
        if policy is None or watched_us is None:
            return None
        version = policy.metadata.policy_version
        steps = np.flatnonzero(trajectory.policy_versions == version)
        watched_us.append(timings.inference[steps] / 1e3)
        inference_us = np.concatenate(watched_us)
        if inference_us.size < _PROBATION_STEPS or not steps.size:
            return None
        try:
            require_usable(policy, _observations(trajectory, steps), at_most_s=_TRIAL_S)
            # The median, because a busy machine makes any policy slow now and then.
            median_us = float(np.median(inference_us))
            budget_us = latency_budget_us(self._run, self._good_us)
            if median_us > budget_us:
                raise BadPolicyFile(  # noqa: TRY301
                    f"an inference takes {median_us:.0f} us, and may take {budget_us:.0f}", reason="slow"
                )
        except BadPolicyFile as error:
            return self.fail(version, error.reason, str(error))
        self._good, self._good_us, self._watched_us = policy, median_us, None
        return PolicyVerdict(version=version)

    def fail(self, version: int, reason: str, sentence: str) -> PolicyVerdict:
        """Go back to the last good policy at once, if it is the acting one that has failed."""
        if self.policy is not None and self.policy.metadata.policy_version == version:
            self.policy, self._good = (None, None) if self.policy is self._good else (self._good, self._good)
            self._watched_us = None
        return PolicyVerdict(version=version, reason=reason, sentence=sentence)


def _observations(trajectory: Trajectory, steps: NDArray[np.intp]) -> Iterator[NDArray[Any]]:
    """What the policy saw at some of its steps, `[N, ...]` each, with the frames stacked."""
    for step in steps[:: max(1, steps.size // _OBSERVATIONS)].tolist():
        frames = trajectory.observations[step : step + trajectory.frame_stack]
        yield np.concatenate(list(frames), axis=-1)
