"""What does each method take off an actor's inference, one observation at a time, on one thread?

torch eager float32 (inference_mode) against our files of the same policy: as it is, which is the runtime's part; with
half of each layer's units pruned, which is structure's; and both in int8, which is precision's. Backends take turns.
Weights are random: what a step costs does not depend on them, and what it costs the policy is `recipe_table`'s
question. Where weights do not fit into a cache, a step is little but reading them: beside each file stands the time in
which one thread of numpy adds up as many bytes.
"""

import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.report import Claim, Row, finish, parse_arguments
from benchmarks.steps import Step, time_steps
from cloud_learner.networks import ActorCritic
from compressor import CompressionRecipe, PolicyGraph, compress
from compressor.pruning import prune
from compressor.run_file import open_step
from fleet_protocol.spaces import BoxSpec, DiscreteSpec

ACTION: Final = DiscreteSpec(n=6)
GOAL: Final = 4.13
"""AcceRL's largest."""
SHARE: Final = 0.5


def main() -> None:
    """Measure in turns, and print."""
    arguments = parse_arguments(__doc__)
    torch.set_num_threads(1)
    turns, steps = (5, 20) if arguments.quick else (15, 60)
    rows: list[Row] = []
    claims: list[Claim] = []
    for name, (network, shape) in _networks().items():
        backends, sizes = _backends(network)
        inputs = _observations(shape, steps)
        taken = {backend: np.empty((turns, steps), np.int64) for backend in backends}
        for turn in range(turns):
            for backend, step in backends.items():
                taken[backend][turn] = time_steps(step, inputs)
        p50 = {backend: float(np.median(times[1:])) / 1e3 for backend, times in taken.items()}
        rows += [
            {
                "network": name,
                "backend": backend,
                "p50_us": p50[backend],
                "p99_us": float(np.percentile(taken[backend][1:], 99)) / 1e3,
                "mb": sizes[backend] / 1e6,
                "factor": p50["torch eager float32"] / p50[backend],
                "reading_us": _reading_us(sizes[backend]),
            }
            for backend in backends
        ]
        claims += _claims(name, p50)
    finish(arguments, rows, claims, packages=("torch", "ai-edge-litert", "torch-pruning", "numpy"))


def _networks() -> dict[str, tuple[ActorCritic, tuple[int, ...]]]:
    torch.manual_seed(0)
    vector, image = BoxSpec(shape=(16,), dtype="float32"), BoxSpec(shape=(84, 84, 4), dtype="uint8")
    return {
        "3x2048": (ActorCritic(vector, ACTION, [2048, 2048, 2048]).eval(), vector.shape),
        "Nature-CNN": (ActorCritic(image, ACTION, [], network="nature-cnn").eval(), image.shape),
    }


def _observations(shape: tuple[int, ...], count: int) -> NDArray[Any]:
    rng = np.random.default_rng(1)
    if len(shape) == 1:
        return rng.standard_normal((count, *shape), np.float32)
    return rng.integers(0, 256, (count, *shape), np.uint8)


def _backends(network: ActorCritic) -> tuple[dict[str, Step], dict[str, int]]:
    graph = network.to_graph()
    pruned = prune(graph, SHARE)
    seen = _observations(graph.observation_shape, 64)
    backends: dict[str, Step] = {"torch eager float32": _torch(network)}
    sizes = {"torch eager float32": len(_file(graph, "float32", seen))}
    for name, policy in (("", graph), (f"prune({SHARE})+", pruned)):
        for precision in ("float32", "int8-dynamic", "int8-full"):
            file = _file(policy, precision, seen)
            backends[f"ours {name}{precision}"] = open_step(file)
            sizes[f"ours {name}{precision}"] = len(file)
    return backends, sizes


def _file(graph: PolicyGraph, precision: str, seen: NDArray[Any]) -> bytes:
    recipe = CompressionRecipe.parse(precision)
    return compress(graph, recipe, metadata={}, calibration=seen if recipe.needs_calibration else None).model


def _torch(network: ActorCritic) -> Step:
    def step(observation: NDArray[Any]) -> object:
        with torch.inference_mode():
            seen = network.normaliser(torch.from_numpy(observation[None]))
            return network.policy_head(network.policy_tower(seen)).numpy()

    return step


def _reading_us(size: int, *, repeats: int = 20) -> float:
    """Microseconds in which this thread adds up as many bytes."""
    numbers = np.ones(max(1, size // 8), np.int64)
    taken = [_microseconds(numbers.sum) for _ in range(repeats)]
    return float(np.median(taken))


def _microseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - started) / 1e3


def _claims(name: str, p50: dict[str, float]) -> list[Claim]:
    eager, plain = p50["torch eager float32"], p50["ours float32"]
    pruned, both = p50[f"ours prune({SHARE})+float32"], p50[f"ours prune({SHARE})+int8-dynamic"]
    return [
        Claim.at_least(f"{name}, torch eager / ours int8-dynamic", eager / p50["ours int8-dynamic"], GOAL),
        Claim.at_least(f"{name}, torch eager / ours pruned, int8-dynamic", eager / both, GOAL),
        Claim.at_least(f"{name}, of that the runtime", eager / plain, 1),
        Claim.at_least(f"{name}, of that the structure", plain / pruned, 1),
        Claim.at_least(f"{name}, of that the precision", pruned / both, 1),
    ]


if __name__ == "__main__":
    main()
