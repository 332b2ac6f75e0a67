"""What an int8 file takes of the float32 weights that torch holds of the same policy."""

import pytest
import torch

from cloud_learner.networks import ActorCritic
from compressor import compress
from compressor.recipe import int8_dynamic
from fleet_protocol.spaces import BoxSpec, DiscreteSpec

VECTOR, FRAME = BoxSpec(shape=(8,), dtype="float32"), BoxSpec(shape=(84, 84, 1), dtype="uint8")
ACTION = DiscreteSpec(n=4)


def make(kind: str) -> ActorCritic:
    if kind == "Nature-CNN":
        return ActorCritic(FRAME, ACTION, [], network="nature-cnn", frame_stack=4)
    if kind == "GRU":
        return ActorCritic(VECTOR, ACTION, [256], memory="gru", memory_size=256)
    return ActorCritic(VECTOR, ACTION, [int(width) for width in kind.split(",")])


def state_bytes(network: ActorCritic) -> int:
    """The policy's part of the state dict."""
    parts = [part for part in (network.policy_tower, network.memory, network.policy_head) if part is not None]
    return sum(tensor.numel() * 4 for part in parts for tensor in part.state_dict().values())


def largest_share(weights: int) -> float:
    """Scales and zero points of each row, and heads in float32, weigh more in a small file."""
    return 0.27 if weights > 1_000_000 else 0.30 if weights > 250_000 else 0.34


@pytest.mark.parametrize("kind", ["160,160", "256,256", "512,512", "1024,1024", "2048,2048,2048", "GRU", "Nature-CNN"])
def test_an_int8_file_is_a_quarter_of_the_weights(kind: str):
    torch.manual_seed(0)
    network = make(kind)
    weights = state_bytes(network)
    assert weights > 100_000
    size = len(compress(network.to_graph(), int8_dynamic(), metadata={"run_id": "r"}).model)
    assert size / weights <= largest_share(weights)
