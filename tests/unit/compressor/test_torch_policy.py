"""A policy in torch is the same function as its graph, and comes back as the same arrays."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from policy_factories import NETWORKS, make_observations, make_policy, make_states
from torch import nn

from compressor import Layer, MaxPool, UnsupportedPolicyError
from compressor.torch_policy import TorchPolicy, export_tower

GRAPHS = {
    **NETWORKS,
    "own value": lambda: make_policy(value="own", normalised=True),
    "gaussian": lambda: make_policy(gaussian=True, normalised=True),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_torch_computes_what_the_graph_computes(name):
    graph = GRAPHS[name]()
    observations, states = make_observations(graph, 9), make_states(graph, 9) if graph.memory else None
    expected = graph.forward(observations, states)
    seen = torch.from_numpy(observations)
    with torch.no_grad():
        if states is None:
            actual = TorchPolicy(graph)(seen)
        else:  # nine copies, one step
            actual = TorchPolicy(graph)(seen.unsqueeze(0), torch.from_numpy(states))
    assert expected.keys() == actual.keys()
    for output, values in expected.items():
        np.testing.assert_allclose(actual[output].reshape(9, -1).numpy(), values, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", GRAPHS)
def test_what_comes_back_is_what_went_in_and_training_does_not_touch_it(name):
    graph = GRAPHS[name]()
    policy = TorchPolicy(graph)
    back = policy.to_graph()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1.0)
    observations, states = make_observations(graph, 9), make_states(graph, 9) if graph.memory else None
    for output, values in graph.forward(observations, states).items():
        np.testing.assert_array_equal(back.forward(observations, states)[output], values)
    changed = policy.to_graph().forward(observations, states)
    assert any((changed[output] != values).any() for output, values in graph.forward(observations, states).items())


def test_a_deviation_that_ignores_the_state_goes_on_doing_so():
    graph = make_policy(gaussian=True)
    free = replace(graph, heads=graph.heads | {"log_std": Layer(np.zeros((3, 64), np.float32), np.ones(3, np.float32))})
    policy = TorchPolicy(free)
    (policy(torch.from_numpy(make_observations(free, 4)))["log_std"] ** 2).sum().backward()
    assert policy.heads["log_std"].weight.grad is None
    assert policy.heads["log_std"].bias.grad.abs().min() > 0


def test_what_torch_or_a_file_cannot_do_is_named():
    image = NETWORKS["resnet"]()
    pools = tuple(MaxPool(2, 2) if isinstance(block, MaxPool) else block for block in image.torso)
    with pytest.raises(UnsupportedPolicyError, match="a pool of 2 by 2 cannot be trained"):
        TorchPolicy(_with_pools(image, pools))
    with pytest.raises(UnsupportedPolicyError, match="module 1 is a GELU, which no block is made from"):
        export_tower(nn.Sequential(nn.Linear(2, 2), nn.GELU()))


def _with_pools(graph, pools):
    """The same graph but for its pools; not checked, for no size of the layers behind fits."""
    other = replace(graph)
    object.__setattr__(other, "torso", pools)
    return other
