"""The torch modules that a file's blocks are made from, where torch has none of its own that does the same.

Convolutions work on `[N, C, H, W]` tensors whose memory is channels last, as the policy file's is: on a CPU an update
takes half the time, and `FlattenChannelsLast` copies nothing.
"""

from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

CellKind = Literal["gru", "lstm"]

VECTORS_IN_A_STATE: Final[dict[CellKind, int]] = {"gru": 1, "lstm": 2}
"""An LSTM's state is hidden and cell side by side."""


class FlattenChannelsLast(nn.Module):
    """Images `[N, C, H, W]` as vectors `[N, H * W * C]`, in the order of the policy file."""

    def forward(self, images: Tensor) -> Tensor:
        """Flatten all but the batch."""
        return images.permute(0, 2, 3, 1).flatten(1)


class SamePool(nn.Module):
    """Max pooling 3x3, stride 2, with TensorFlow Lite's "same" padding: `[N, C, ceil(H / 2), ceil(W / 2)]`.

    "same" pads an odd side by one pixel at both ends, and an even one only at its far end, which is what `ceil_mode`
    does without padding.
    """

    size: Final = 3
    stride: Final = 2

    def forward(self, images: Tensor) -> Tensor:
        """Pool images `[N, C, H, W]`."""
        odd = images.shape[2] % 2, images.shape[3] % 2
        return functional.max_pool2d(images, self.size, self.stride, padding=odd, ceil_mode=True)


class ResidualBlock(nn.Module):
    """`x + second(relu(first(relu(x))))`, 3x3 convolutions that keep the shape.

    Args:
        channels: Of input and output.
        hidden: Between the two convolutions; None for as many.
    """

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or channels
        self.first: nn.Module = nn.Conv2d(channels, hidden, 3, padding=1)
        self.second: nn.Module = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Apply the block to images `[N, C, H, W]`."""
        return images + self.second(self.first(images.relu()).relu_())


class RecurrentMemory(nn.Module):
    """A cell that is carried along each copy's steps and forgets all where an episode begins.

    Args:
        kind: gru or lstm.
        features: Of the encoder.
        size: Of the memory.

    Attributes:
        round_features: Rounds what the inputs' weights read; None for nothing.
        round_hidden: The same of the state's.
    """

    def __init__(self, kind: CellKind, features: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.state_size = VECTORS_IN_A_STATE[kind] * size
        self.cell = nn.LSTMCell(features, size) if kind == "lstm" else nn.GRUCell(features, size)
        self.round_features: nn.Module | None = None
        self.round_hidden: nn.Module | None = None
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
        if self.round_features is not None and self.round_hidden is not None:
            return self._rounded_step(self.round_features(row), state, self.round_hidden)
        if isinstance(self.cell, nn.LSTMCell):
            hidden, cell = state.chunk(2, dim=-1)
            return torch.cat(self.cell(row, (hidden, cell)), dim=-1)
        return self.cell(row, state)

    def _rounded_step(self, row: Tensor, state: Tensor, round_hidden: nn.Module) -> Tensor:
        """The same, but the hidden state is rounded for the product with its weights, and nowhere else."""
        cell, hidden = self.cell, state[..., : self.size]
        from_input = functional.linear(row, cell.weight_ih, cell.bias_ih)
        from_state = functional.linear(round_hidden(hidden), cell.weight_hh, cell.bias_hh)
        if isinstance(cell, nn.LSTMCell):
            write, forget, new, read = (from_input + from_state).chunk(4, dim=-1)
            kept = forget.sigmoid() * state[..., self.size :] + write.sigmoid() * new.tanh()
            return torch.cat([read.sigmoid() * kept.tanh(), kept], dim=-1)
        (reset, update, new), (reset_state, update_state, new_state) = from_input.chunk(3, -1), from_state.chunk(3, -1)
        new = (new + (reset + reset_state).sigmoid() * new_state).tanh()
        return new + (update + update_state).sigmoid() * (hidden - new)
