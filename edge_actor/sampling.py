"""What acts: the head's outputs, rounded to the wire grid *before* an action is drawn.

The rounded values define the distribution mu that really acted, and they are what travels, so the learner corrects for
exactly that. The grid depends on the head and never on the precision of the file: float32 and int8 boards log alike.
"""

import math
from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.spaces import BoxSpec, DiscreteSpec, MultiDiscreteSpec, SpaceSpec, branches, head_size
from fleet_protocol.trajectory import Head

_GRID_LIMIT: Final = 127
_SCALE_RANGE: Final = (0.5 / _GRID_LIMIT, 40.0 / _GRID_LIMIT)
_HEADROOM: Final = 1.5
"""The next window's grid reaches this far beyond the largest logit seen in the last one."""
_PLAIN_PYTHON_UP_TO: Final = 8
"""Below this many copies x actions, loops in Python beat the cost of calling numpy."""
_LOG_TWO_PI: Final = math.log(2 * math.pi)

Outputs = tuple[NDArray[np.float32], ...]


class UnusableOutputs(ArithmeticError):
    """A policy's outputs are not finite as they travel: no action can be drawn from them."""


class Sampler(Protocol):
    """Draws actions for one window after the other.

    Attributes:
        head: What kind of distribution acts.
        actions: `[T, N]`, `[T, N, K]` or `[T, N, A]`: the actions drawn, as they travel.
        behavior_params: The wire-grid parameters, as `Trajectory` has them.
        behavior_log_prob: float32 `[T, N]`, or None where it follows from the parameters.
        wire_scale: Size of the grid's unit in this window.
    """

    head: Head
    actions: NDArray[Any]
    behavior_params: NDArray[Any]
    behavior_log_prob: NDArray[np.float32] | None
    wire_scale: float

    def begin_window(self) -> None:
        """Fix the grid and draw the window's random numbers."""
        ...

    def sample(self, outputs: Outputs, step: int) -> list[Any]:
        """Draw the actions of one step, record them, and return one for each environment.

        Raises:
            UnusableOutputs: The outputs are not finite.
        """
        ...

    def greedy(self, outputs: Outputs) -> list[Any]:
        """The most probable actions, from the unrounded outputs."""
        ...


def make_sampler(
    space: SpaceSpec, *, unroll_length: int, copies: int, wire_scale: float, rng: np.random.Generator
) -> Sampler:
    """The sampler that suits an action space."""
    if isinstance(space, BoxSpec):
        return GaussianSampler(space, unroll_length=unroll_length, copies=copies, rng=rng)
    return CategoricalSampler(space, unroll_length=unroll_length, copies=copies, wire_scale=wire_scale, rng=rng)


class CategoricalSampler:
    """Logits of each branch relative to its first one, as int8 multiples of a scale that holds for a whole window."""

    head: Head = "categorical"

    def __init__(
        self, space: SpaceSpec, *, unroll_length: int, copies: int, wire_scale: float, rng: np.random.Generator
    ) -> None:
        sizes = branches(space)
        ends = np.cumsum(sizes).tolist()
        shape = (unroll_length, copies) if isinstance(space, DiscreteSpec) else (unroll_length, copies, len(sizes))
        self._rng = rng
        self._branches = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self._is_single = isinstance(space, DiscreteSpec)
        self._start = _starts(space)
        self.wire_scale = float(np.clip(wire_scale, *_SCALE_RANGE))
        self.actions = np.zeros(shape, np.uint8 if max(sizes) <= 256 else np.int32)  # noqa: PLR2004
        self.behavior_params = np.zeros((unroll_length, copies, sum(sizes) - len(sizes)), np.int8)
        self.behavior_log_prob: NDArray[np.float32] | None = None
        self._largest = 0.0
        plain = copies * sum(sizes) <= _PLAIN_PYTHON_UP_TO
        self._draw: Callable[[Outputs, int], None] = self._draw_plainly if plain else self._draw_vectorised
        self._weights: list[float] = []
        self._uniforms: NDArray[np.float64] = np.empty(0)
        # The same memory and numbers for plain Python: an item of a memoryview costs a tenth of a numpy row.
        self._plain_uniforms: list[float] = []
        self._flat_actions = self.actions.reshape(-1).data
        self._flat_params = self.behavior_params.reshape(-1).data

    def begin_window(self) -> None:
        """Fit the grid to the last window's logits; a policy swapped in later keeps it."""
        if 0 < self._largest < math.inf:
            self.wire_scale = float(np.clip(_HEADROOM * self._largest / _GRID_LIMIT, *_SCALE_RANGE))
        self._largest = 0.0
        self._uniforms = self._rng.random((*self.actions.shape[:2], len(self._branches)))
        self._plain_uniforms = self._uniforms.ravel().tolist()
        grid = np.arange(-_GRID_LIMIT, _GRID_LIMIT + 1)
        self._weights = np.exp(grid * self.wire_scale).tolist()

    def sample(self, outputs: Outputs, step: int) -> list[Any]:
        """Draw an action of each branch for each copy from softmax(rounded logits)."""
        self._draw(outputs, step)
        return self._for_environment(self.actions[step])

    def greedy(self, outputs: Outputs) -> list[Any]:
        """The actions with the largest logits."""
        best = np.stack([outputs[0][:, branch].argmax(axis=-1) for branch in self._branches], axis=-1)
        return self._for_environment(best[:, 0] if self._is_single else best)

    def _for_environment(self, actions: NDArray[Any]) -> list[Any]:
        if self._is_single:
            plain: list[int] = actions.tolist()
            return [action + self._start[0] for action in plain] if self._start[0] else plain
        return list(actions + np.asarray(self._start, np.int64))

    def _draw_plainly(self, outputs: Outputs, step: int) -> None:
        rows: list[list[float]] = outputs[0].tolist()
        width = self.behavior_params.shape[2]
        place, at = step * len(rows) * width, step * len(rows) * len(self._branches)
        for row in rows:
            for branch in self._branches:
                action, grid = self.draw_one(row[branch], self._plain_uniforms[at])
                self._flat_actions[at] = action
                at += 1
                for level in grid:
                    self._flat_params[place] = level
                    place += 1

    def draw_one(self, logits: list[float], uniform: float) -> tuple[int, list[int]]:
        """Round one row of logits to the grid and draw from it, in plain Python.

        Args:
            logits: One float for each action.
            uniform: A number in [0, 1).

        Returns:
            The action, and the grid values of all actions but the first.
        """
        first, scale, weights, largest = logits[0], self.wire_scale, self._weights, self._largest
        grid: list[int] = []
        total = 1.0
        cumulative = [1.0]
        for logit in logits[1:]:
            shift = logit - first
            # Comparisons instead of min, max and abs: three calls less on every step of a board.
            if shift > largest or -shift > largest:
                self._largest = largest = abs(shift)
            try:
                level = round(shift / scale)
            except (ValueError, OverflowError) as error:
                raise UnusableOutputs(f"logits {logits}"[:200]) from error
            if level > _GRID_LIMIT:
                level = _GRID_LIMIT
            elif level < -_GRID_LIMIT:
                level = -_GRID_LIMIT
            grid.append(level)
            total += weights[level + _GRID_LIMIT]
            cumulative.append(total)
        threshold = uniform * total
        action, last = 0, len(grid)
        while action < last and cumulative[action] <= threshold:
            action += 1
        return action, grid

    def _draw_vectorised(self, outputs: Outputs, step: int) -> None:
        actions = self.actions[step].reshape(-1, len(self._branches))
        for index, branch in enumerate(self._branches):
            logits = outputs[0][:, branch].astype(np.float64)
            shifts = logits[:, 1:] - logits[:, :1]
            largest = float(np.abs(shifts).max())
            if not largest < math.inf:  # so, and not >=, because of nan
                raise UnusableOutputs("logits that are not finite")
            self._largest = max(self._largest, largest)
            grid = np.rint(shifts / self.wire_scale).clip(-_GRID_LIMIT, _GRID_LIMIT)
            # Each branch sends one number less than it has logits.
            self.behavior_params[step, :, branch.start - index : branch.stop - index - 1] = grid
            cumulative = np.ones(logits.shape)
            np.exp(grid * self.wire_scale, out=cumulative[:, 1:])
            cumulative = cumulative.cumsum(axis=-1)
            thresholds = self._uniforms[step, :, index] * cumulative[:, -1]
            actions[:, index] = (cumulative[:, :-1] <= thresholds[:, None]).sum(axis=-1)


def as_action(flat: list[float], space: SpaceSpec) -> Any:  # noqa: ANN401 - an action of any space
    """A fixed action, as an environment takes it from a sampler: one number, or a flat array.

    Raises:
        ProgramError: It has another size than the space.
    """
    size = head_size(space) if isinstance(space, BoxSpec) else len(branches(space))
    if len(flat) != size:
        raise ProgramError(ExitCode.CONFIG, f"safe_action has {len(flat)} numbers, and an action of the run {size}")
    if isinstance(space, DiscreteSpec):
        return int(flat[0])
    return np.asarray(flat, space.dtype if isinstance(space, BoxSpec) else np.int64)


def _starts(space: SpaceSpec) -> list[int]:
    match space:
        case DiscreteSpec():
            return [space.start]
        case MultiDiscreteSpec() if space.start:
            return space.start
        case _:
            return [0] * len(branches(space))


class GaussianSampler:
    """Means and log standard deviations in float16; the sample is not clipped, only what the environment gets is."""

    head: Head = "gaussian"

    def __init__(self, space: BoxSpec, *, unroll_length: int, copies: int, rng: np.random.Generator) -> None:
        size = head_size(space)
        self._rng = rng
        self._dtype = np.dtype(space.dtype)
        self._low = np.asarray(space.low or -np.inf, self._dtype)
        self._high = np.asarray(space.high or np.inf, self._dtype)
        self.wire_scale = 1.0
        self.actions = np.zeros((unroll_length, copies, size), np.float32)
        self.behavior_params = np.zeros((unroll_length, copies, 2 * size), np.float16)
        self.behavior_log_prob: NDArray[np.float32] | None = np.zeros((unroll_length, copies), np.float32)
        self._log_prob = self.behavior_log_prob
        self._size = size
        self._noise: NDArray[np.float32] = np.empty(0, np.float32)

    def begin_window(self) -> None:
        """Draw the window's noise."""
        self._noise = self._rng.standard_normal(self.actions.shape, np.float32)

    def sample(self, outputs: Outputs, step: int) -> list[NDArray[Any]]:
        """Draw one action for each copy from N(mean, exp(log_std)^2), both rounded to float16."""
        params = self.behavior_params[step]
        params[:, : self._size], params[:, self._size :] = outputs
        mean, log_std = params[:, : self._size].astype(np.float32), params[:, self._size :].astype(np.float32)
        deviation = np.exp(log_std)
        actions = mean + deviation * self._noise[step]
        self.actions[step] = actions
        distance = (actions - mean) / deviation
        self._log_prob[step] = (-0.5 * (distance * distance + _LOG_TWO_PI) - log_std).sum(axis=-1)
        if not math.isfinite(sum(self._log_prob[step].tolist())):
            raise UnusableOutputs("a mean or log_std that is not finite in float16")
        return self._for_environment(actions)

    def greedy(self, outputs: Outputs) -> list[NDArray[Any]]:
        """The mean."""
        return self._for_environment(outputs[0])

    def _for_environment(self, actions: NDArray[np.float32]) -> list[NDArray[Any]]:
        return list(np.clip(actions.astype(self._dtype), self._low, self._high))
