"""What the step benchmarks share: timing a step, and both ways to an action and its log-probability."""

import math
import time
from collections.abc import Callable

import numpy as np
import torch

from edge_actor.sampling import CategoricalSampler

Step = Callable[[np.ndarray], object]


def time_steps(step: Step, inputs: np.ndarray) -> np.ndarray:
    """Nanoseconds of each step, int64 `[len(inputs)]`."""
    taken = np.empty(len(inputs), np.int64)
    for index, observation in enumerate(inputs):
        started = time.perf_counter_ns()
        step(observation)
        taken[index] = time.perf_counter_ns() - started
    return taken


def recorded_log_prob(sampler: CategoricalSampler, index: int, action: int) -> float:
    """Log-probability of a drawn action, from the wire grid that was recorded for it; one copy, one branch."""
    scale, grid = sampler.wire_scale, sampler.behavior_params[index].tolist()[0]
    log_total = math.log1p(sum([math.exp(level * scale) for level in grid]))
    return (grid[action - 1] * scale if action else 0.0) - log_total


def torch_draw(logits: torch.Tensor) -> tuple[int, float]:
    """An action and its log-probability as torch gives them, without `distributions`."""
    log_probs = torch.log_softmax(logits, dim=-1)
    action = torch.multinomial(log_probs.exp(), 1)
    return int(action), float(log_probs.gather(-1, action))
