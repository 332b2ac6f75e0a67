"""Pruning: what is left is the old policy without its least units, in multiples that kernels like."""

from dataclasses import replace

import numpy as np
import pytest
from policy_factories import NETWORKS, make_observations, make_policy, make_states

from compressor import Convolution, Layer, UnsupportedPolicyError
from compressor.pruning import prune


def widths(graph):
    return [block.bias.size for block in graph.torso if isinstance(block, Layer | Convolution)]


def without(layer, *, said=(), read=()):
    """The layer with units that say nothing, and others that it does not read."""
    weight, bias = layer.weight.copy(), layer.bias.copy()
    weight[list(said)] = bias[list(said)] = 0
    weight[..., list(read)] = 0
    return replace(layer, weight=weight, bias=bias)


@pytest.mark.parametrize(
    ("network", "left"),
    [
        ("mlp", [32, 32]),
        ("nature", [16, 32, 32, 256]),
        ("resnet", [8, 16, 32]),
        ("gru", [32]),
        ("lstm", [32]),
        ("images and gru", [16, 32, 32, 256]),
    ],
)
def test_half_of_the_units_are_left_and_a_board_sees_no_other_difference(network, left):
    graph = NETWORKS[network]()
    pruned = prune(graph, 0.5)
    assert widths(pruned) == left
    observations = make_observations(graph, 3)
    states = make_states(graph, 3) if graph.memory else None
    shapes = [
        {name: values.shape for name, values in policy.forward(observations, states).items()}
        for policy in (graph, pruned)
    ]
    assert shapes[0] == shapes[1]


def test_units_that_say_nothing_are_the_ones_that_go():
    graph = make_policy(features=6, value="shared", normalised=True)
    first, second = np.random.default_rng(1).permuted(np.tile(np.arange(64), (2, 1)), axis=1)[:, :32]
    graph = replace(
        graph,
        torso=(without(graph.torso[0], said=first), without(graph.torso[1], said=second, read=first)),
        heads={"logits": without(graph.heads["logits"], read=second)},
        value_head=without(graph.value_head, read=second),
    )
    pruned = prune(graph, 0.5)
    observations = make_observations(graph, 50)
    expected, actual = graph.forward(observations), pruned.forward(observations)
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, atol=1e-5)


def test_channels_before_a_flattening_go_with_their_pixels():
    graph = NETWORKS["nature"]()
    one, two, three, flatten, dense = graph.torso
    silent = np.random.default_rng(1).permutation(64)[:32]
    pixels = np.flatnonzero(np.isin(np.arange(dense.weight.shape[1]) % 64, silent))
    torso = (one, two, without(three, said=silent), flatten, without(dense, read=pixels))
    pruned = prune(replace(graph, torso=torso), 0.5)
    left = np.setdiff1d(np.arange(64), silent)
    kept = pruned.torso[4].weight.reshape(256, -1, 32)
    whole = dense.weight.reshape(512, -1, 64)[:, :, left]
    # Whichever units of the dense layer are left, they read the channels that are left, pixel by pixel.
    assert all(any(np.array_equal(unit, old) for old in whole) for unit in kept)


@pytest.mark.parametrize(
    ("width", "share", "left"), [(64, 0.3, 48), (20, 0.5, 8), (12, 0.9, 8), (8, 0.5, 8), (4, 0.5, 4)]
)
def test_widths_are_multiples_of_eight(width, share, left):
    assert widths(prune(make_policy(width=width), share)) == [left, left]


def test_a_share_that_leaves_nothing_is_refused():
    with pytest.raises(
        UnsupportedPolicyError, match=r"prune\(0.99\) leaves less than one of the 64 units of torso\[0\]"
    ):
        prune(make_policy(), 0.99)
