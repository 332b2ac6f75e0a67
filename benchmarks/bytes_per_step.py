"""How many bytes does one CartPole step cost on the wire: whole messages, topic included?

Windows come from real rollouts of CartPole-v1 with a policy file; raw float32 columns would be 26 bytes a step.
"""

from typing import Final

import gymnasium
import numpy as np

from benchmarks.cartpole_policy import ACTION, WIRE_SCALE, make_network, policy_file
from benchmarks.report import Claim, finish, parse_arguments
from compressor import Precision
from edge_actor.environment_copy import EnvironmentCopy
from edge_actor.policy import Policy
from edge_actor.rollout import Rollout
from edge_actor.sampling import make_sampler
from fleet_protocol.codec import encode
from fleet_protocol.messages import TrajectoryMessage
from fleet_protocol.topics import FleetTopics
from fleet_protocol.trajectory import pack_trajectory

SHAPES: Final = ((32, 16), (64, 16), (128, 8), (128, 16), (128, 1), (1024, 1))
RAW_BYTES: Final = 26


def main() -> None:
    """Record windows of several shapes."""
    arguments = parse_arguments(__doc__)
    rows = [_row(*shape, windows=5 if arguments.quick else 50) for shape in SHAPES]
    costs = {shape: float(row["bytes_per_step"]) for shape, row in zip(SHAPES, rows, strict=True)}
    large = [cost for (unroll_length, copies), cost in costs.items() if unroll_length * copies >= 1024]
    claims = [
        Claim.at_most("the demo's windows (32 x 16), bytes a step", costs[32, 16], 18),
        Claim.at_most("T x N >= 1024, worst shape, bytes a step", max(large), 17),
    ]
    finish(arguments, rows, claims, packages=("numpy", "zstandard", "gymnasium"))


def _row(unroll_length: int, copies: int, *, windows: int) -> dict[str, float]:
    policy = Policy(policy_file(make_network(), Precision.INT8_DYNAMIC), copies=copies)
    rollout = Rollout(
        [EnvironmentCopy(lambda: gymnasium.make("CartPole-v1", disable_env_checker=True)) for _ in range(copies)],
        unroll_length=unroll_length,
        frame_stack=1,
        sampler=make_sampler(
            ACTION, unroll_length=unroll_length, copies=copies, wire_scale=WIRE_SCALE, rng=np.random.default_rng(0)
        ),
        seed=0,
    )
    topic = FleetTopics("demo").up("board-000", "trajectory")
    sizes: list[int] = []
    for seq in range(windows):
        trajectory, _ = rollout.fill_window(lambda: policy)
        message = TrajectoryMessage(
            run_id="0123456789ab",
            board_id="board-000",
            boot_id="0123456789ab",
            seq=seq,
            oldest_seq=seq,
            body=pack_trajectory(trajectory),
        )
        sizes.append(len(encode(message)) + len(topic))
    bytes_per_step = float(np.mean(sizes)) / (unroll_length * copies)
    return {
        "T": unroll_length,
        "N": copies,
        "windows": windows,
        "bytes_per_step": bytes_per_step,
        "raw_float32": RAW_BYTES,
        "share_of_raw": bytes_per_step / RAW_BYTES,
    }


if __name__ == "__main__":
    main()
