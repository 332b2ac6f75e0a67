"""What a policy remembers from step to step: a GRU or an LSTM cell, in numpy.

Gates are stacked along the rows in torch's order, and the formulas are torch's
(https://docs.pytorch.org/docs/stable/generated/torch.nn.GRU.html and `torch.nn.LSTM.html`). A state of zeros begins
an episode.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from compressor.layer import Float32Array, InvalidPolicyError, UnsupportedPolicyError, check_array
from compressor.windows import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class _Cell:
    weight_input: Float32Array
    weight_state: Float32Array
    bias_input: Float32Array
    bias_state: Float32Array

    gates: ClassVar[int]

    @property
    def size(self) -> int:
        """H, the number of features that the cell gives."""
        return self.weight_state.shape[1]

    def _sums(self, inputs: FloatArray, hidden: FloatArray) -> tuple[list[FloatArray], list[FloatArray]]:
        """Return what each gate gets from the inputs and from the hidden state, `[N, H]` each."""
        from_input = inputs @ self.weight_input.T.astype(inputs.dtype, copy=False) + self.bias_input
        from_state = hidden @ self.weight_state.T.astype(inputs.dtype, copy=False) + self.bias_state
        return np.split(from_input, self.gates, axis=1), np.split(from_state, self.gates, axis=1)


class Gru(_Cell):
    """A gated recurrent unit.

        r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n = tanh(W_in x + b_in + r (W_hn h + b_hn))
        h' = n + z (h - n)

    Attributes:
        weight_input: float32 `[3 H, in]`: reset, update, new.
        weight_state: float32 `[3 H, H]`.
        bias_input: float32 `[3 H]`.
        bias_state: float32 `[3 H]`.
    """

    __slots__ = ()
    gates = 3

    @property
    def state_size(self) -> int:
        """The number of features in a state, which is H."""
        return self.size

    def forward(self, inputs: FloatArray, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Take one step: inputs `[N, in]` and state `[N, H]` to features `[N, H]` and the same as new state."""
        (reset, update, new), (reset_state, update_state, new_state) = self._sums(inputs, state)
        kept = _sigmoid(update + update_state)
        new = np.tanh(new + _sigmoid(reset + reset_state) * new_state)
        hidden = new + kept * (state - new)
        return hidden, hidden


class Lstm(_Cell):
    """A long short-term memory; its state is hidden and cell side by side.

        i, f, o = sigmoid(W x + b + W' h + b'),  g = tanh(W x + b + W' h + b')
        c' = f c + i g
        h' = o tanh(c')

    Attributes:
        weight_input: float32 `[4 H, in]`: input, forget, cell, output.
        weight_state: float32 `[4 H, H]`.
        bias_input: float32 `[4 H]`.
        bias_state: float32 `[4 H]`.
    """

    __slots__ = ()
    gates = 4

    @property
    def state_size(self) -> int:
        """The number of features in a state, which is 2 H."""
        return 2 * self.size

    def forward(self, inputs: FloatArray, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Take one step: inputs `[N, in]` and state `[N, 2 H]` to features `[N, H]` and the new state `[N, 2 H]`."""
        hidden, cell = np.split(state, 2, axis=1)
        write, forget, new, read = (a + b for a, b in zip(*self._sums(inputs, hidden), strict=True))
        cell = _sigmoid(forget) * cell + _sigmoid(write) * np.tanh(new)
        hidden = _sigmoid(read) * np.tanh(cell)
        return hidden, np.concatenate([hidden, cell], axis=1)


Memory = Gru | Lstm


def check_memory(name: str, memory: Memory, *, features: int) -> None:
    """Refuse a cell that cannot be run on this many features, calling it by its name in the policy.

    Raises:
        InvalidPolicyError: an array has a wrong shape or dtype or is not finite.
        UnsupportedPolicyError: no cell of ours.
    """
    if not isinstance(memory, Gru | Lstm):
        raise UnsupportedPolicyError(f"{name} is a {type(memory).__name__}, and no file can hold one: use Gru or Lstm")
    for part in ("weight_input", "weight_state", "bias_input", "bias_state"):
        array: Float32Array = getattr(memory, part)
        check_array(f"{name}.{part}", array, rank=2 if part.startswith("weight") else 1)
    rows = memory.gates * memory.size
    expected = {
        "weight_input": (rows, features),
        "weight_state": (rows, memory.size),
        "bias_input": (rows,),
        "bias_state": (rows,),
    }
    for part, shape in expected.items():
        if getattr(memory, part).shape != shape:
            raise InvalidPolicyError(
                f"{name}.{part} is {list(getattr(memory, part).shape)}: with {features} features and a size of "
                f"{memory.size} it must be {list(shape)}"
            )


def _sigmoid(values: FloatArray) -> FloatArray:
    # Half a tanh, because exp(-x) overflows where x is far below zero.
    return 0.5 + 0.5 * np.tanh(0.5 * values)
