"""The checker as a real process, what is asked of it, and probation in a worker."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
import pytest
from policies import make_policy_file
from test_policy_shelf import make_policy

from compressor import CompressionRecipe, Layer, PolicyGraph, Precision, compress
from edge_actor.policy import Policy
from edge_actor.policy_checker import PolicyChecker
from edge_actor.policy_file import BadPolicyFile, read_metadata
from edge_actor.policy_seat import PolicySeat
from edge_actor.policy_shelf import HeldPolicy
from edge_actor.policy_trial import latency_budget_us, require_usable
from edge_actor.rollout import Timings
from fleet_protocol.messages import RunSpec
from fleet_protocol.signing import FrameRefused
from fleet_protocol.spaces import BoxSpec
from fleet_protocol.trajectory import Trajectory

RUN: Final = RunSpec(run_id="r", generation=1, env_id="X-v0", unroll_length=8)


def make_flat(bias: list[float], *, version: int = 1, slope: float = 0.0) -> bytes:
    """A policy whose logits are `bias`, and more by `slope` for what exceeds 100."""
    torso = (Layer(np.eye(2, dtype=np.float32), np.full(2, -100, np.float32), "relu"),)
    weight = np.zeros((3, 2), np.float32)
    weight[0] = slope
    graph = PolicyGraph(torso, {"logits": Layer(weight, np.array(bias, np.float32))})
    metadata = read_metadata(make_policy_file(policy_version=version))
    return compress(graph, CompressionRecipe(Precision.FLOAT32), metadata=metadata).model


@dataclass
class Asked:
    """A checker's client, and what became of what it was asked."""

    admitted: list[int] = field(default_factory=list)
    issuers: list[str] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.checker = PolicyChecker(
            admit=self.admit,
            refuse=lambda policy: self.refused.append(policy.version),
            count=lambda name, _: self.counters.update([name]),
        )
        self.checker.begin_run(RUN, copies=2)

    def admit(self, policy: HeldPolicy) -> None:
        self.admitted.append(policy.version)
        self.issuers.append(policy.header.issuer)

    def offer(self, version: int, model: bytes | None = None, *, issuer: str = "learner") -> None:
        header = msgspec.structs.replace(make_policy(version).header, issuer=issuer)
        self.checker.offer(HeldPolicy(header, model or make_policy_file(policy_version=version)))

    def is_settled(self, count: int) -> bool:
        self.checker.serve()
        return len(self.admitted) + len(self.refused) >= count


@pytest.fixture
def asked() -> Iterator[Asked]:
    asking = Asked()
    yield asking
    asking.checker.end()


def test_sound_policies_pass_in_turn_and_those_between_are_skipped(asked: Asked, wait_until: Callable[..., None]):
    for version in (1, 2, 3):
        asked.offer(version)  # the checker is not there yet: the newest waits
    wait_until(lambda: asked.is_settled(1), timeout_s=60)
    assert (asked.admitted, asked.counters) == ([3], Counter(policies_skipped=2))
    asked.offer(4)
    wait_until(lambda: asked.is_settled(2), timeout_s=30)
    assert asked.admitted == [3, 4]


def test_one_that_is_on_its_way_is_not_asked_about_again_and_an_older_one_is_refused(asked: Asked):
    asked.offer(5)
    asked.offer(5)
    with pytest.raises(FrameRefused) as refused:
        asked.offer(4)
    assert refused.value.reason == "not_newer"
    assert not asked.counters


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (b"no policy at all", "file"),
        (make_policy_file(policy_version=9), "metadata"),
        (make_flat([3e38, -3e38, 0]), "saturated"),
        (make_flat([50, 0, 0]), "saturated"),
    ],
)
def test_an_unsound_policy_is_refused_for_its_reason(
    asked: Asked, model: bytes, reason: str, wait_until: Callable[..., None]
):
    asked.offer(1, model)
    wait_until(lambda: asked.is_settled(1), timeout_s=60)
    assert (asked.admitted, asked.refused) == ([], [1])
    assert asked.counters == Counter({"policies_refused": 1, f"check_{reason}": 1})


def test_what_is_said_of_a_run_that_is_over_concerns_nobody(asked: Asked, wait_until: Callable[..., None]):
    wait_until(lambda: asked.checker.serve() or is_ready(asked), timeout_s=60)
    asked.offer(1)
    asked.checker.begin_run(RUN, copies=2)
    asked.offer(2)
    wait_until(lambda: asked.is_settled(1), timeout_s=30)
    assert (asked.admitted, asked.refused) == ([2], [])


def test_a_run_that_begins_anew_gets_the_policy_that_was_being_checked(asked: Asked, wait_until: Callable[..., None]):
    wait_until(lambda: asked.checker.serve() or is_ready(asked), timeout_s=60)
    asked.offer(1)
    asked.checker.begin_run(RUN, copies=2)
    asked.offer(1)
    wait_until(lambda: asked.is_settled(1), timeout_s=30)
    assert (asked.admitted, asked.refused) == ([1], [])


@pytest.mark.parametrize("is_with_the_checker", [False, True])
def test_a_policy_that_is_signed_anew_on_its_way_arrives_under_the_new_signature(
    asked: Asked, is_with_the_checker: bool, wait_until: Callable[..., None]
):
    if is_with_the_checker:
        wait_until(lambda: asked.checker.serve() or is_ready(asked), timeout_s=60)
    asked.offer(1)
    asked.offer(1, issuer="next")
    wait_until(lambda: asked.is_settled(1), timeout_s=60)
    assert (asked.admitted, asked.issuers) == ([1], ["next"])


def test_a_checker_that_is_stopped_with_the_agent_blames_no_policy(asked: Asked, wait_until: Callable[..., None]):
    wait_until(lambda: asked.checker.serve() or is_ready(asked), timeout_s=60)
    (pid,) = asked.checker.pids()
    os.kill(pid, signal.SIGSTOP)
    asked.offer(1)
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: asked.is_settled(1), timeout_s=60)
    assert (asked.admitted, asked.refused) == ([1], [])


def test_a_checker_that_is_killed_over_a_policy_blames_it_and_another_takes_its_place(
    asked: Asked, wait_until: Callable[..., None]
):
    wait_until(lambda: asked.checker.serve() or is_ready(asked), timeout_s=60)
    (pid,) = asked.checker.pids()
    os.kill(pid, signal.SIGSTOP)
    asked.offer(1)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: asked.is_settled(1), timeout_s=30)
    assert (asked.refused, asked.counters["check_crash"]) == ([1], 1)
    asked.offer(2)
    wait_until(lambda: asked.is_settled(2), timeout_s=60)
    assert asked.admitted == [2]


def is_ready(asked: Asked) -> bool:
    """The checker waits for a policy."""
    process = asked.checker._process
    return process is not None and process.is_ready


def test_an_action_that_is_certain_at_every_observation_is_saturated_and_one_that_is_not_once_is_sound():
    policy = Policy(make_flat([0, 0, 0], slope=1e3), copies=1)
    far, near = np.full((1, 2), 200, np.float32), np.zeros((1, 2), np.float32)
    require_usable(policy, [far, near], at_most_s=1)
    with pytest.raises(BadPolicyFile) as refused:
        require_usable(policy, [far, far], at_most_s=1)
    assert refused.value.reason == "saturated"


def test_means_far_out_of_bounds_are_sound_and_what_float16_cannot_hold_is_not():
    def gaussian(mean: float, log_std: float) -> Policy:
        zeros = np.zeros((2, 8), np.float32)
        heads = {
            "mean": Layer(zeros, np.full(2, mean, np.float32)),
            "log_std": Layer(zeros, np.full(2, log_std, np.float32)),
        }
        torso = (Layer(np.zeros((8, 2), np.float32), np.zeros(8, np.float32), "tanh"),)
        metadata = read_metadata(make_policy_file(action=BoxSpec(shape=(2,), dtype="float32")))
        return Policy(
            compress(PolicyGraph(torso, heads), CompressionRecipe(Precision.FLOAT32), metadata=metadata).model, copies=1
        )

    observations = [np.zeros((1, 2), np.float32)]
    require_usable(gaussian(1e3, -1.0), observations, at_most_s=1)
    for mean, log_std, reason in ((1e5, -1.0, "nan"), (0.0, -20.0, "saturated"), (0.0, 20.0, "saturated")):
        with pytest.raises(BadPolicyFile) as refused:
            require_usable(gaussian(mean, log_std), observations, at_most_s=1)
        assert refused.value.reason == reason


def test_a_clocked_run_gives_a_tick_and_another_one_many_times_what_a_good_policy_takes():
    clocked = RunSpec(run_id="r", generation=1, env_id="X-v0", unroll_length=8, control_hz=50.0)
    assert latency_budget_us(clocked, 3.0) == 20_000
    assert latency_budget_us(RUN, 0.0) == float("inf")
    assert latency_budget_us(RUN, 3.0) == 1000  # nothing is too slow below a millisecond
    assert latency_budget_us(RUN, 500.0) == 10_000


def make_window(versions: list[int], *, seen: float = 0.0, inference_us: float = 5.0) -> tuple[Trajectory, Timings]:
    T = len(versions)
    nothing = np.zeros((T, 1), np.bool_)
    trajectory = Trajectory(
        head="categorical",
        observations=np.full((T + 1, 1, 2), seen, np.float32),
        actions=np.zeros((T, 1), np.uint8),
        rewards=np.zeros((T, 1), np.float32),
        terminated=nothing,
        truncated=nothing,
        is_first=nothing,
        behavior_params=np.zeros((T, 1, 2), np.int8),
        behavior_log_prob=None,
        wire_scale=0.1,
        policy_versions=np.array(versions, np.int64),
        final_steps=np.zeros(0, np.int32),
        final_observations=np.zeros((0, 2), np.float32),
        episode_returns=[],
        episode_lengths=[],
    )
    times = np.full(T, int(inference_us * 1e3), np.int64)
    return trajectory, Timings(times, times, times, None)


def make_seat(*versions: int, slope: float = 0.0) -> PolicySeat:
    """A seat where the last version is on probation, and those before it have proved themselves."""
    seat = PolicySeat(RUN)
    for version in versions[:-1]:
        seat.take(Policy(make_flat([0, 0, 0], version=version), copies=1), is_good=False)
        assert seat.watch(*make_window([version] * 8)) is not None
    seat.take(Policy(make_flat([0, 0, 0], version=versions[-1], slope=slope), copies=1), is_good=False)
    return seat


def acting(seat: PolicySeat) -> int:
    return seat.policy.metadata.policy_version if seat.policy else 0


def test_a_policy_proves_itself_once_after_enough_steps_of_its_own():
    seat = make_seat(1, 2)
    assert seat.watch(*make_window([1] * 5 + [2] * 3)) is None
    verdict = seat.watch(*make_window([2] * 8))
    assert verdict is not None
    assert (verdict.version, verdict.reason, acting(seat)) == (2, "", 2)
    assert seat.watch(*make_window([2] * 8)) is None


@pytest.mark.parametrize(
    ("window", "reason"),
    [({"seen": 200.0}, "saturated"), ({"inference_us": 50_000.0}, "slow")],
)
def test_a_policy_that_fails_gives_way_to_the_last_good_one(window: dict[str, float], reason: str):
    seat = make_seat(1, 2, slope=1e3)
    verdict = seat.watch(*make_window([2] * 8, **window))
    assert verdict is not None
    assert (verdict.version, verdict.reason, acting(seat)) == (2, reason, 1)


def test_one_slow_step_is_no_slow_policy():
    seat = make_seat(1, 2)
    trajectory, timings = make_window([2] * 8)
    timings.inference[3] = 10**9
    verdict = seat.watch(trajectory, timings)
    assert verdict is not None
    assert verdict.reason == ""


def test_a_newer_policy_replaces_the_candidate_and_never_the_last_good_one():
    seat = make_seat(1, 2)
    seat.take(Policy(make_flat([0, 0, 0], version=3), copies=1), is_good=False)
    seat.fail(3, "nan", "")
    assert acting(seat) == 1
    seat.fail(1, "nan", "")
    assert acting(seat) == 0


def test_probation_of_a_small_policy_takes_no_time_worth_speaking_of():
    seat = make_seat(1, 2)
    trajectory, timings = make_window([2] * 256)
    started = time.thread_time()
    assert seat.watch(trajectory, timings) is not None
    assert time.thread_time() - started < 0.02
