"""What a policy sees and remembers of N copies: their newest frames, and the state of a recurrent policy (ADR 6)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_actor.policy import Policy
from fleet_protocol.spaces import BoxSpec, stacked_shape


class Beholder:
    """Stacks frames and carries states from step to step, for windows and evaluations alike.

    Args:
        observation: The observation space.
        copies: N.
        frame_stack: K, how many observations a policy sees at once.

    Attributes:
        stack: `[N, ..., K * last]`: what the policy sees next.
        state: float32 `[N, H]`: what it remembers; zeros begin an episode. H is 0 without a memory.
    """

    def __init__(self, observation: BoxSpec, *, copies: int, frame_stack: int) -> None:
        self._frame_stack = frame_stack
        self._width = observation.shape[-1]
        self.stack: NDArray[Any] = np.zeros((copies, *stacked_shape(observation, frame_stack)), observation.dtype)
        self.state: NDArray[np.float32] = np.zeros((copies, 0), np.float32)

    def see(self, rows: NDArray[Any]) -> None:
        """Take the newest observations of all copies, `[N, ...]`."""
        if self._frame_stack > 1:
            # Moving all memory by one frame's channels moves each pixel's; the last ones are written over next.
            flat = self.stack.reshape(-1)
            flat[: -self._width] = flat[self._width :]
        self.see_instead(rows)

    def see_instead(self, rows: NDArray[Any]) -> None:
        """Take observations in place of the newest ones."""
        self.stack[..., -self._width :] = rows

    def begin_episode(self, copy: int, row: NDArray[Any]) -> None:
        """Forget all of a copy: its first frame stands in for the older ones, and its state is zero."""
        for place in range(self._frame_stack):
            self.stack[copy, ..., place * self._width : (place + 1) * self._width] = row
        self.state[copy] = 0

    def newest(self, copy: int) -> NDArray[Any]:
        """The newest frame of a copy, `[...]`."""
        return self.stack[copy, ..., -self._width :]

    def frames(self) -> NDArray[Any]:
        """The stack as single frames, oldest first, `[K, N, ...]`."""
        parts = self.stack.reshape(*self.stack.shape[:-1], self._frame_stack, self._width)
        return np.moveaxis(parts, -2, 0)

    def fit(self, policy: Policy) -> None:
        """Make room for a policy's state; all is forgotten where its size is another one."""
        if self.state.shape[1] != policy.state_size:
            self.state = np.zeros((self.state.shape[0], policy.state_size), np.float32)

    def infer(self, policy: Policy) -> None:
        """Run the policy on what is seen and remembered, and remember what it says."""
        policy.observe(self.stack)
        if policy.state_in is not None and policy.state_out is not None:
            policy.state_in[...] = self.state
            policy.infer()
            self.state[...] = policy.state_out
        else:
            policy.infer()
