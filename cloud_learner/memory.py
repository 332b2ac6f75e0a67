"""What a policy remembers from step to step: a GRU or an LSTM, unrolled over the steps of a batch."""

from typing import Final

import torch
from torch import Tensor, nn

from cloud_learner.config import MemoryKind

_STATES: Final[dict[MemoryKind, int]] = {"none": 0, "gru": 1, "lstm": 2}
"""How many vectors make a state: an LSTM's is hidden and cell side by side."""


def state_size(kind: MemoryKind, memory_size: int) -> int:
    """H, the numbers in a state; 0 without a memory."""
    return _STATES[kind] * memory_size


class RecurrentMemory(nn.Module):
    """A cell that is carried along each copy's steps and forgets all where an episode begins.

    Args:
        kind: gru or lstm.
        features: Of the encoder.
        size: Of the memory.
    """

    def __init__(self, kind: MemoryKind, features: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.state_size = state_size(kind, size)
        self.cell = nn.LSTMCell(features, size) if kind == "lstm" else nn.GRUCell(features, size)
        for parameter in self.cell.parameters():
            nn.init.orthogonal_(parameter) if parameter.ndim > 1 else nn.init.zeros_(parameter)

    def forward(
        self, features: Tensor, state: Tensor | None = None, is_first: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Unroll over T rows of B copies.

        Args:
            features: float32 `[T, B, F]`.
            state: float32 `[B, H]` before the first row; None for zeros.
            is_first: bool `[T, B]`: an episode begins with this row; None for nowhere.

        Returns:
            What the memory gives, float32 `[T, B, size]`, and the states after each row, float32 `[T, B, H]`.
        """
        if state is None:
            state = features.new_zeros(features.shape[1], self.state_size)
        keeps = [None] * len(features) if is_first is None else is_first.logical_not().unsqueeze(-1).unbind()
        states: list[Tensor] = []
        for row, keep in zip(features.unbind(), keeps, strict=True):
            state = self._step(row, state if keep is None else state * keep)
            states.append(state)
        together = torch.stack(states)
        return together[..., : self.size], together

    def _step(self, row: Tensor, state: Tensor) -> Tensor:
        if isinstance(self.cell, nn.LSTMCell):
            hidden, cell = state.chunk(2, dim=-1)
            return torch.cat(self.cell(row, (hidden, cell)), dim=-1)
        return self.cell(row, state)
