"""Write a memory: one step of a GRU or an LSTM, with the state as an input and an output of the file.

A fused LSTM operator keeps its state inside, where a board can neither reset it nor send it along.
"""

from functools import partial

import numpy as np

from compressor.layer import Float32Array
from compressor.memory import Gru, Lstm, Memory
from compressor.tflite_writer import schema
from compressor.tflite_writer.arithmetic import FloatArithmetic
from compressor.tflite_writer.builder import BATCH, GraphBuilder
from compressor.tflite_writer.operations import ADD, CONCATENATION, LOGISTIC, MULTIPLY, SUBTRACT, TANH

STATE_IN = "state_in"
STATE_OUT = "state_out"


def write_memory(model: GraphBuilder, arithmetic: FloatArithmetic, memory: Memory, features: int) -> tuple[int, int]:
    """Add a memory that reads features `[batch, in]`; return the tensors of its features and of its new state."""
    state = model.input(STATE_IN, (BATCH, memory.state_size))
    axis = model.constant("memory.axis", np.array(1, np.int32))
    if isinstance(memory, Gru):
        hidden = _write_gru(model, arithmetic, memory, features, state=state, axis=axis)
        return hidden, hidden
    return _write_lstm(model, arithmetic, memory, features, state=state, axis=axis)


def _write_gru(
    model: GraphBuilder, arithmetic: FloatArithmetic, gru: Gru, features: int, *, state: int, axis: int
) -> int:
    apply = partial(model.apply, shape=(BATCH, gru.size))
    from_input, from_state = _write_sums(model, arithmetic, gru, features, state)
    reset_input, update_input, new_input = model.split(
        from_input, axis, tuple(f"memory.input.{gate}" for gate in ("reset", "update", "new")), shape=(BATCH, gru.size)
    )
    reset_state, update_state, new_state = model.split(
        from_state, axis, tuple(f"memory.state.{gate}" for gate in ("reset", "update", "new")), shape=(BATCH, gru.size)
    )
    reset_sums = apply(ADD, (reset_input, reset_state), name="memory.reset.sums")
    reset = apply(LOGISTIC, (reset_sums,), name="memory.reset")
    update_sums = apply(ADD, (update_input, update_state), name="memory.update.sums")
    update = apply(LOGISTIC, (update_sums,), name="memory.update")
    recalled = apply(MULTIPLY, (reset, new_state), name="memory.recalled")
    new_sums = apply(ADD, (new_input, recalled), name="memory.new.sums")
    new = apply(TANH, (new_sums,), name="memory.new")
    difference = apply(SUBTRACT, (state, new), name="memory.difference")
    kept = apply(MULTIPLY, (update, difference), name="memory.kept")
    return apply(ADD, (new, kept), name=STATE_OUT)


def _write_lstm(
    model: GraphBuilder, arithmetic: FloatArithmetic, lstm: Lstm, features: int, *, state: int, axis: int
) -> tuple[int, int]:
    apply = partial(model.apply, shape=(BATCH, lstm.size))
    hidden, cell = model.split(state, axis, ("memory.hidden_in", "memory.cell_in"), shape=(BATCH, lstm.size))
    both = _write_sums(model, arithmetic, lstm, features, hidden)
    sums = model.apply(ADD, both, name="memory.sums", shape=(BATCH, lstm.gates * lstm.size))
    names = tuple(f"memory.{gate}.sums" for gate in ("write", "forget", "new", "read"))
    write_sums, forget_sums, new_sums, read_sums = model.split(sums, axis, names, shape=(BATCH, lstm.size))
    write = apply(LOGISTIC, (write_sums,), name="memory.write")
    forget = apply(LOGISTIC, (forget_sums,), name="memory.forget")
    new = apply(TANH, (new_sums,), name="memory.new")
    read = apply(LOGISTIC, (read_sums,), name="memory.read")
    kept = apply(MULTIPLY, (forget, cell), name="memory.kept")
    written = apply(MULTIPLY, (write, new), name="memory.written")
    cell_out = apply(ADD, (kept, written), name="memory.cell")
    squashed = apply(TANH, (cell_out,), name="memory.squashed")
    hidden_out = apply(MULTIPLY, (read, squashed), name="memory.hidden")
    state_out = model.apply(
        CONCATENATION,
        (hidden_out, cell_out),
        name=STATE_OUT,
        shape=(BATCH, lstm.state_size),
        options={schema.CONCATENATION_AXIS: 1},
    )
    return hidden_out, state_out


def _write_sums(
    model: GraphBuilder, arithmetic: FloatArithmetic, memory: Memory, features: int, hidden: int
) -> tuple[int, int]:
    """Add what all gates get from the inputs and from the hidden state, `[batch, gates * H]` each."""

    def dense(name: str, weight: Float32Array, bias: Float32Array, inputs: int) -> int:
        operation, *stored = arithmetic.parameters(model, name, weight, bias, inputs=inputs)
        return model.apply(operation, (inputs, *stored), name=name, shape=(BATCH, bias.size))

    from_input = dense("memory.input", memory.weight_input, memory.bias_input, features)
    return from_input, dense("memory.state", memory.weight_state, memory.bias_state, hidden)
