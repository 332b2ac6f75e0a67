"""A memory is torch's cell, and refuses matrices that do not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from policy_factories import make_memory, make_observations, make_recurrent

from compressor import Gru, InvalidPolicyError, Lstm, UnsupportedPolicyError

CELLS = {Gru: torch.nn.GRUCell, Lstm: torch.nn.LSTMCell}


def torch_step(kind, memory, inputs, state):
    cell = CELLS[kind](inputs.shape[1], memory.size).double()
    arrays = (memory.weight_input, memory.weight_state, memory.bias_input, memory.bias_state)
    with torch.no_grad():
        for parameter, array in zip((cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh), arrays, strict=True):
            parameter.copy_(torch.tensor(array))
        if kind is Gru:
            return cell(torch.tensor(inputs), torch.tensor(state)).numpy()
        hidden, cell_state = cell(torch.tensor(inputs), tuple(torch.tensor(state).tensor_split(2, dim=1)))
        return torch.cat([hidden, cell_state], dim=1).numpy()


@pytest.mark.parametrize("kind", [Gru, Lstm])
@pytest.mark.parametrize("spread", [1.0, 1000.0], ids=["", "saturated"])
def test_a_step_is_torchs(kind, spread):
    memory = make_memory(kind, features=5, size=7)
    generator = np.random.default_rng(1)
    inputs = generator.standard_normal((9, 5)) * spread
    state = generator.uniform(-1, 1, (9, memory.state_size))
    features, state_out = memory.forward(inputs, state)
    np.testing.assert_allclose(state_out, torch_step(kind, memory, inputs, state), atol=1e-12)
    np.testing.assert_array_equal(features, state_out[:, :7])


@pytest.mark.parametrize(("kind", "size"), [(Gru, 48), (Lstm, 96)])
def test_the_heads_read_the_memory_and_its_state_is_an_output(kind, size):
    graph = make_recurrent(kind, value=True)
    outputs = graph.forward(make_observations(graph, 3))
    assert graph.state_size == size
    assert outputs["state_out"].shape == (3, size)
    for name, head in (("logits", graph.heads["logits"]), ("value", graph.value_head)):
        np.testing.assert_allclose(outputs[name], outputs["state_out"][:, :48] @ head.weight.T + head.bias)


@pytest.mark.parametrize("part", ["weight_input", "weight_state", "bias_input", "bias_state"])
def test_an_array_of_another_shape_is_refused_by_name(part):
    graph = make_recurrent(Gru)
    shorter = replace(graph.memory, **{part: getattr(graph.memory, part)[:-1]})
    with pytest.raises(InvalidPolicyError, match=rf"memory\.{part} is .* with 64 features and a size of 48"):
        replace(graph, memory=shorter)


def test_a_memory_that_is_not_finite_is_refused_by_name():
    graph = make_recurrent(Lstm)
    graph.memory.weight_state[3, 4] = np.nan
    with pytest.raises(InvalidPolicyError, match=r"memory\.weight_state holds NaN"):
        replace(graph)


def test_a_memory_of_somebody_elses_is_refused_by_its_type():
    with pytest.raises(UnsupportedPolicyError, match="memory is a RNNCell, and no file can hold one: use Gru or Lstm"):
        replace(make_recurrent(Gru), memory=torch.nn.RNNCell(64, 48))


def test_a_head_that_expects_the_torsos_features_is_refused():
    graph = make_recurrent(Gru)
    with pytest.raises(InvalidPolicyError, match=r"logits\.weight is \[4, 48\], but 32 values reach it"):
        replace(graph, memory=make_memory(Gru, size=32))
