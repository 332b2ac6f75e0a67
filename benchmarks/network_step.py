"""How long does one board step take with a camera or a memory: frame in, action and log-probability out, batch 1?

Ours is what a worker does (`Beholder`, `Policy`, `CategoricalSampler`) with the log-probability on top; a new 84x84
frame is stacked with the three before it within the step. Against it: torch eager (inference_mode, one thread,
log_softmax and multinomial) on frames that are stacked already. Its weights are laid out as torch lays them out, which
is what the goal is about; a torch that was told to put channels last is shown beside it. Backends take turns.
"""

from itertools import cycle
from typing import Any

import numpy as np
import torch
from msgspec import to_builtins
from torch import Tensor

from benchmarks.report import Claim, Row, finish, parse_arguments
from benchmarks.steps import Step, recorded_log_prob, time_steps, torch_draw
from cloud_learner.networks import ActorCritic
from compressor import CompressionRecipe, Precision, compress
from edge_actor.beholder import Beholder
from edge_actor.policy import Policy
from edge_actor.sampling import CategoricalSampler
from fleet_protocol.spaces import BoxSpec, DiscreteSpec

FRAME, VECTOR, ACTION = (
    BoxSpec(shape=(84, 84, 1), dtype="uint8"),
    BoxSpec(shape=(8,), dtype="float32"),
    DiscreteSpec(n=6),
)
FRAME_STACK = 4
UNROLL_LENGTH = 20
WIRE_SCALE = 4 / 127
GOALS = {"Nature-CNN": 6, "GRU 128": 8}


def main() -> None:
    """Measure in turns, and print."""
    arguments = parse_arguments(__doc__)
    torch.set_num_threads(1)
    turns, steps = (5, 40) if arguments.quick else (15, 100)
    rows: list[Row] = []
    claims: list[Claim] = []
    for name, make in (("Nature-CNN", _camera), ("GRU 128", _memory)):
        backends, inputs = make(steps)
        taken = {backend: np.empty((turns, steps), np.int64) for backend in backends}
        for turn in range(turns):
            for backend, step in backends.items():
                taken[backend][turn] = time_steps(step, inputs)
        measured = {backend: _row(name, backend, times[1:]) for backend, times in taken.items()}
        rows += measured.values()
        ratio = measured["torch eager"]["p50_us"] / measured["ours int8-dynamic"]["p50_us"]
        claims.append(
            Claim.at_least(f"{name}, whole step, torch eager float32 / ours int8-dynamic", ratio, GOALS[name])
        )
    finish(arguments, rows, claims, packages=("torch", "ai-edge-litert", "numpy"))


def _camera(steps: int) -> tuple[dict[str, Step], np.ndarray]:
    torch.manual_seed(0)
    network = ActorCritic(FRAME, ACTION, [], network="nature-cnn", frame_stack=FRAME_STACK).eval()
    frames = np.random.default_rng(1).integers(0, 256, (steps, 84, 84, 1), np.uint8)
    plain = ActorCritic(FRAME, ACTION, [], network="nature-cnn", frame_stack=FRAME_STACK).eval()
    plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload] - torch's stub wants a device too
    backends: dict[str, Step] = {
        "torch eager": _torch_camera(plain, torch.contiguous_format),
        "torch eager, channels last": _torch_camera(network, torch.channels_last),
    }
    for precision in Precision:
        calibration = np.repeat(frames[:16], FRAME_STACK, axis=-1)
        backends[f"ours {precision}"] = _ours(network, FRAME, precision, FRAME_STACK, calibration)
    return backends, frames


def _memory(steps: int) -> tuple[dict[str, Step], np.ndarray]:
    torch.manual_seed(0)
    network = ActorCritic(VECTOR, ACTION, [64], memory="gru", memory_size=128).eval()
    vectors = np.random.default_rng(1).standard_normal((steps, *VECTOR.shape), np.float32)
    backends: dict[str, Step] = {"torch eager": _torch_memory(network)}
    for precision in (Precision.FLOAT32, Precision.FLOAT16, Precision.INT8_DYNAMIC, Precision.INT8):
        backends[f"ours {precision}"] = _ours(network, VECTOR, precision, 1, vectors)
    return backends, vectors


def _ours(
    network: ActorCritic, space: BoxSpec, precision: Precision, frame_stack: int, calibration: np.ndarray
) -> Step:
    graph = network.to_graph()
    metadata: dict[str, object] = {
        "run_id": "benchmark",
        "policy_version": 1,
        "head": "categorical",
        "observation": to_builtins(space),
        "action": to_builtins(ACTION),
        "wire_scale": WIRE_SCALE,
        "frame_stack": frame_stack,
        "state_size": graph.state_size,
    }
    given = calibration if precision.needs_calibration else None
    policy = Policy(compress(graph, CompressionRecipe(precision), metadata=metadata, calibration=given).model, copies=1)
    beholder = Beholder(space, copies=1, frame_stack=frame_stack)
    beholder.fit(policy)
    rng = np.random.default_rng(0)
    sampler = CategoricalSampler(ACTION, unroll_length=UNROLL_LENGTH, copies=1, wire_scale=WIRE_SCALE, rng=rng)
    indices = cycle(range(UNROLL_LENGTH))

    def step(observation: np.ndarray) -> object:
        index = next(indices)
        if index == 0:
            sampler.begin_window()
        beholder.see(observation[None])
        beholder.infer(policy)
        action = sampler.sample(policy.outputs, index)[0]
        return action, recorded_log_prob(sampler, index, action)

    return step


def _torch_camera(network: ActorCritic, layout: torch.memory_format) -> Step:
    def logits_of(frames: np.ndarray) -> Tensor:
        images = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        return network.policy_head(network.policy_tower(images.float() / 255))

    stack = np.zeros((1, 84, 84, FRAME_STACK), np.uint8)

    def step(frame: np.ndarray) -> object:
        stack[..., -1:] = frame
        with torch.inference_mode():
            return torch_draw(logits_of(stack))

    return step


def _torch_memory(network: ActorCritic) -> Step:
    assert network.memory is not None  # noqa: S101 - made with one
    cell = network.memory.cell
    state = torch.zeros(1, network.memory.size)

    def step(observation: np.ndarray) -> object:
        nonlocal state
        with torch.inference_mode():
            features = network.policy_tower(network.normaliser(torch.from_numpy(observation[None])))
            state = cell(features, state)
            return torch_draw(network.policy_head(state))

    return step


def _row(network: str, backend: str, taken: np.ndarray) -> dict[str, Any]:
    return {
        "network": network,
        "step": backend,
        "p50_us": float(np.median(taken)) / 1e3,
        "p99_us": float(np.percentile(taken, 99)) / 1e3,
    }


if __name__ == "__main__":
    main()
