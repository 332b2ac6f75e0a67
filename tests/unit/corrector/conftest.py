"""Random batches for the tests of V-trace, and the same batches episode by episode."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

Batch = dict[str, Tensor]


def _make_batch(seed: int = 0, *, T: int = 9, B: int = 3, p_terminated: float = 0.2, p_truncated: float = 0.2) -> Batch:
    """Return float64 arguments of V-trace; a final value is NaN wherever it must not be looked at."""
    rng = np.random.default_rng(seed)
    terminated = rng.random((T, B)) < p_terminated
    truncated = rng.random((T, B)) < p_truncated
    final_values = np.where(truncated & ~terminated, 2 * rng.standard_normal((T, B)), np.nan)
    arrays = {
        "log_rhos": rng.standard_normal((T, B)),
        "discounts": 0.9 * ~terminated,
        "rewards": rng.standard_normal((T, B)),
        "values": 2 * rng.standard_normal((T, B)),
        "bootstrap_value": 2 * rng.standard_normal(B),
        "truncated": truncated,
        "final_values": final_values,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """Return the factory of random batches, `make_batch(seed, T=..., p_truncated=...)`."""
    return _make_batch


def _split_into_episodes(batch: Batch) -> Iterator[tuple[tuple[slice, slice], Batch]]:
    """Yield where each episode lies in the batch, and its arguments; what it ended with is its bootstrap."""
    ends = batch["truncated"] | (batch["discounts"] == 0)
    ends[-1] = True
    for b in range(ends.shape[1]):
        start = 0
        for end in ends[:, b].nonzero().flatten().tolist():
            place = slice(start, end + 1), slice(b, b + 1)
            episode = {name: batch[name][place] for name in ("log_rhos", "discounts", "rewards", "values")}
            final_value = batch["final_values"][end, b : b + 1]
            bootstrap_value = batch["bootstrap_value"][b : b + 1] if final_value.isnan() else final_value
            yield place, episode | {"bootstrap_value": bootstrap_value}
            start = end + 1


@pytest.fixture(scope="session")
def split_into_episodes() -> Callable[[Batch], Iterator[tuple[tuple[slice, slice], Batch]]]:
    """Return the function that takes a batch apart."""
    return _split_into_episodes


@pytest.fixture
def generator() -> Generator:
    """Return a seeded source of randomness."""
    return Generator().manual_seed(0)
