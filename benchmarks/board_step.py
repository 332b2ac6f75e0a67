"""How long does one board step take: observation in, action and its log-probability out, batch 1, 64x64?

Ours is what a worker does: held views of the interpreter's memory, then `CategoricalSampler.sample`, which rounds the
logits to the wire grid, draws in plain Python and records both for the window. The log-probability is computed from the
recorded grid on top: a worker leaves that to the learner, and torch's step has it. Against it: torch eager
(inference_mode, one thread, log_softmax and multinomial), and LiteRT float32 through its ordinary calls with our
sampling. Backends take turns within one process; runtime and precision are reported apart.
"""

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import torch

from benchmarks.cartpole_policy import ACTION, WIRE_SCALE, make_network, observations, policy_file
from benchmarks.report import Claim, Row, finish, parse_arguments
from benchmarks.steps import Step, recorded_log_prob, time_steps, torch_draw
from cloud_learner.networks import ActorCritic
from compressor import Precision
from edge_actor.policy import Policy, interpreter_class
from edge_actor.sampling import CategoricalSampler, Outputs

Infer = Callable[[np.ndarray], Outputs]
Logits = Callable[[torch.Tensor], torch.Tensor]
STEPS_A_TURN = 512
UNROLL_LENGTH = 128


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
            times[name][turn] = time_steps(step, inputs)
    rows: list[Row] = [_row(name, taken[turns // 10 :]) for name, taken in times.items()]
    medians = {str(row["step"]): float(row["p50_us"]) for row in rows}
    ours, graph, litert = medians["ours int8-dynamic"], medians["ours float32"], medians["LiteRT float32"]
    claims = [
        Claim.at_least("whole step, torch eager float32 / ours int8-dynamic", medians["torch eager"] / ours, 12),
        Claim.at_least("whole step, LiteRT float32 (ordinary calls) / ours float32, same graph", litert / graph, 0.95),
        Claim.at_least("whole step, LiteRT float32 (ordinary calls) / ours int8-dynamic", litert / ours, 0.95),
    ]
    finish(arguments, rows, claims, packages=("torch", "ai-edge-litert", "numpy"))


def _backends() -> dict[str, Step]:
    network = make_network().eval()
    backends: dict[str, Step] = {
        "torch eager": _torch_step(_normalised(network)),
        "torch eager, no normalisation": _torch_step(_bare(network)),
        "torch eager, inference only": _torch_inference(_normalised(network)),
    }
    ordinary = _ordinary_inference(policy_file(network, Precision.FLOAT32))
    backends["LiteRT float32"] = _with_log_prob(ordinary)
    backends["LiteRT float32, inference only"] = ordinary
    for precision in (p for p in Precision if not p.needs_calibration):
        infer = _our_inference(Policy(policy_file(network, precision), copies=1))
        backends[f"ours {precision}"] = _with_log_prob(infer)
        backends[f"ours {precision}, no log-probability"] = _sampled(infer)
        backends[f"ours {precision}, inference only"] = infer
    return backends


def _our_inference(policy: Policy) -> Infer:
    def infer(observation: np.ndarray) -> Outputs:
        policy.observation[...] = observation
        policy.infer()
        return policy.outputs

    return infer


def _ordinary_inference(model: bytes) -> Infer:
    make_interpreter, _ = interpreter_class()
    interpreter: Any = make_interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    observation_index = interpreter.get_input_details()[0]["index"]
    logits_index = next(d["index"] for d in interpreter.get_output_details() if d["name"] == "logits")

    def infer(observation: np.ndarray) -> Outputs:
        interpreter.set_tensor(observation_index, observation)
        interpreter.invoke()
        return (interpreter.get_tensor(logits_index),)

    return infer


def _make_sampler() -> CategoricalSampler:
    rng = np.random.default_rng(0)
    return CategoricalSampler(ACTION, unroll_length=UNROLL_LENGTH, copies=1, wire_scale=WIRE_SCALE, rng=rng)


def _sampled(infer: Infer) -> Step:
    """One step as a worker does it; a window begins as often as on a board."""
    sampler, steps = _make_sampler(), cycle(range(UNROLL_LENGTH))

    def step(observation: np.ndarray) -> object:
        index = next(steps)
        if index == 0:
            sampler.begin_window()
        return sampler.sample(infer(observation), index)[0]

    return step


def _with_log_prob(infer: Infer) -> Step:
    sampler, steps = _make_sampler(), cycle(range(UNROLL_LENGTH))

    def step(observation: np.ndarray) -> object:
        index = next(steps)
        if index == 0:
            sampler.begin_window()
        action = sampler.sample(infer(observation), index)[0]
        return action, recorded_log_prob(sampler, index, action)

    return step


def _torch_step(logits_of: Logits) -> Step:
    def step(observation: np.ndarray) -> object:
        with torch.inference_mode():
            return torch_draw(logits_of(torch.from_numpy(observation)))

    return step


def _torch_inference(logits_of: Logits) -> Step:
    def step(observation: np.ndarray) -> object:
        with torch.inference_mode():
            return logits_of(torch.from_numpy(observation))

    return step


def _bare(network: ActorCritic) -> Logits:
    return torch.nn.Sequential(*network.policy_tower, network.policy_head)


def _normalised(network: ActorCritic) -> Logits:
    return torch.nn.Sequential(network.normaliser, *network.policy_tower, network.policy_head)


def _row(name: str, taken: np.ndarray) -> Row:
    return {
        "step": name,
        "p50_us": float(np.median(taken)) / 1e3,
        "p99_us": float(np.percentile(taken, 99)) / 1e3,
        "mean_us": float(np.mean(taken)) / 1e3,
    }


if __name__ == "__main__":
    main()
