"""How long does one board step take: observation in, action and its log-probability out, batch 1, 64x64?

Ours is what a worker does: held views of the interpreter's memory, logits rounded to the wire grid, a draw in plain
Python. Against it: torch eager (inference_mode, one thread, log_softmax and multinomial), and LiteRT float32 through
its ordinary calls with our sampling. Backends take turns within one process; runtime and precision are reported apart.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.cartpole_policy import ACTION, WIRE_SCALE, make_network, observations, policy_file
from benchmarks.report import Claim, Row, finish, parse_arguments
from compressor import Precision
from edge_actor.policy import Policy, interpreter_class
from edge_actor.sampling import CategoricalSampler

Step = Callable[[np.ndarray], object]
STEPS_A_TURN = 500


def main() -> None:
    """Measure all backends in turns."""
    arguments = parse_arguments(__doc__)
    torch.set_num_threads(1)
    backends = _backends()
    turns = 20 if arguments.quick else 200
    times = {name: np.empty((turns, STEPS_A_TURN), np.int64) for name in backends}
    inputs = observations(STEPS_A_TURN).reshape(STEPS_A_TURN, 1, 4)
    for turn in range(turns):
        for name, step in backends.items():
            times[name][turn] = _time_steps(step, inputs)
    rows: list[Row] = [_row(name, taken[turns // 10 :]) for name, taken in times.items()]
    medians = {str(row["step"]): float(row["p50_us"]) for row in rows}
    claims = [
        Claim.at_least(
            "whole step, torch eager float32 / ours int8-dynamic",
            medians["torch eager"] / medians["ours int8-dynamic"],
            12,
        ),
        Claim.at_least(
            "whole step, LiteRT float32 (ordinary calls) / ours float32 on the same graph",
            medians["LiteRT float32"] / medians["ours float32"],
            0.95,
        ),
        Claim.at_least(
            "whole step, LiteRT float32 (ordinary calls) / ours int8-dynamic",
            medians["LiteRT float32"] / medians["ours int8-dynamic"],
            0.95,
        ),
    ]
    finish(arguments, rows, claims, packages=("torch", "ai-edge-litert", "numpy"))


def _backends() -> dict[str, Step]:
    network = make_network().eval()
    backends: dict[str, Step] = {
        "torch eager": _torch_step(network),
        "torch eager, network only": _torch_forward(network),
    }
    backends["LiteRT float32"] = _ordinary_step(policy_file(network, Precision.FLOAT32))
    for precision in Precision:
        policy = Policy(policy_file(network, precision), copies=1)
        backends[f"ours {precision}"] = _our_step(policy)
        backends[f"ours {precision}, inference only"] = _our_inference(policy)
    return backends


def _our_step(policy: Policy) -> Step:
    draw = _make_draw()

    def step(observation: np.ndarray) -> object:
        policy.observation[...] = observation
        policy.infer()
        return draw(policy.outputs[0].tolist()[0])

    return step


def _make_draw() -> Callable[[list[float]], tuple[int, float]]:
    sampler = CategoricalSampler(ACTION, unroll_length=1, copies=1, wire_scale=WIRE_SCALE, rng=np.random.default_rng(0))
    sampler.begin_window()
    uniforms = iter(np.random.default_rng(2).random(10_000_000 // 2).tolist())
    scale = sampler.wire_scale

    def draw(logits: list[float]) -> tuple[int, float]:
        action, grid = sampler.draw_one(logits, next(uniforms))
        log_total = math.log1p(sum([math.exp(level * scale) for level in grid]))
        return action, (grid[action - 1] * scale if action else 0.0) - log_total

    return draw


def _our_inference(policy: Policy) -> Step:
    def step(observation: np.ndarray) -> object:
        policy.observation[...] = observation
        policy.infer()
        return None

    return step


def _ordinary_step(model: bytes) -> Step:
    make_interpreter, _ = interpreter_class()
    interpreter: Any = make_interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    observation_index = interpreter.get_input_details()[0]["index"]
    logits_index = next(d["index"] for d in interpreter.get_output_details() if d["name"] == "logits")
    draw = _make_draw()

    def step(observation: np.ndarray) -> object:
        interpreter.set_tensor(observation_index, observation)
        interpreter.invoke()
        return draw(interpreter.get_tensor(logits_index).tolist()[0])

    return step


def _torch_step(network: torch.nn.Module) -> Step:
    forward = _torch_logits(network)

    def step(observation: np.ndarray) -> object:
        with torch.inference_mode():
            log_probs = torch.log_softmax(forward(torch.from_numpy(observation)), dim=-1)
            action = torch.multinomial(log_probs.exp(), 1)
            return int(action), float(log_probs.gather(-1, action))

    return step


def _torch_forward(network: torch.nn.Module) -> Step:
    forward = _torch_logits(network)

    def step(observation: np.ndarray) -> object:
        with torch.inference_mode():
            return forward(torch.from_numpy(observation))

    return step


def _torch_logits(network: Any) -> Callable[[torch.Tensor], torch.Tensor]:  # noqa: ANN401 - an ActorCritic
    return lambda observation: network.policy_head(network.policy_tower(network.normaliser(observation)))


def _time_steps(step: Step, inputs: np.ndarray) -> np.ndarray:
    taken = np.empty(len(inputs), np.int64)
    for index, observation in enumerate(inputs):
        started = time.perf_counter_ns()
        step(observation)
        taken[index] = time.perf_counter_ns() - started
    return taken


def _row(name: str, taken: np.ndarray) -> Row:
    return {
        "step": name,
        "p50_us": float(np.median(taken)) / 1e3,
        "p99_us": float(np.percentile(taken, 99)) / 1e3,
    }


if __name__ == "__main__":
    main()
