"""A student beside the learner: it becomes fit to act, keeps to its share of the time, and rests when it is called."""

import time
from functools import partial

import pytest
import torch
from all_kinds import ARM, IMAGE, PARTS, Kind, make_network_of

from cloud_learner.apprentice import Apprentice
from cloud_learner.networks import ActorCritic
from compressor import CompressionRecipe, Convolution, Layer, PolicyGraph, compress
from compressor.calibration import calibrate
from compressor.distillation import Lesson
from fleet_protocol.spaces import branches, stacked_shape

STEPS = 17


def lesson_of(kind: Kind, network: ActorCritic, seed: int) -> Lesson:
    generator = torch.Generator().manual_seed(seed)
    shape = (STEPS, 8, *stacked_shape(kind.observation, kind.frame_stack))
    observations = 2 * torch.randn(shape, generator=generator) + 5
    if kind.observation.dtype == "uint8":
        observations = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    state = is_first = None
    if network.memory is not None:
        state, is_first = torch.zeros(8, network.memory.state_size), torch.zeros(STEPS, 8, dtype=torch.bool)
    with torch.no_grad():
        output = network(observations, state, is_first)
    taught = {**network.action_head.outputs(output.params), "value": output.values.unsqueeze(-1)}
    if output.states is not None:
        taught["state_out"] = output.states
    return Lesson(observations, taught, state, is_first)


def widths(graph: PolicyGraph) -> list[int]:
    return [block.bias.size for block in graph.torso if isinstance(block, Layer | Convolution)]


def make_apprentice(kind: Kind, recipe: str, *, floor: float = 0.1) -> Apprentice:
    return Apprentice(CompressionRecipe.parse(recipe), branches(kind.action), floor=floor)


@pytest.mark.parametrize(
    ("kind", "recipe", "left"),
    [
        (Kind(), "distill(6,6)+int8-dynamic", [6, 6]),
        (Kind(), "qat+int8-full", [8, 8]),
        (Kind(action=ARM), "distill(6)+qat+int8", [6]),
        (Kind(action=PARTS, frame_stack=3), "qat+int8-dynamic", [8, 8]),
        (Kind(memory="gru"), "distill(6)+int8-dynamic", [6]),
        (Kind(IMAGE, frame_stack=2), "prune(0.5)+int8-dynamic", [16, 32, 32, 256]),
    ],
    ids=str,
)
def test_whatever_it_is_a_student_of_its_file_can_be_made(kind: Kind, recipe: str, left: list[int]):
    network, apprentice = make_network_of(kind), make_apprentice(kind, recipe, floor=1e9)
    assert apprentice.fit(network.to_graph()) is None  # nothing was learned yet
    apprentice.attend(lesson_of(kind, network, 1), partial(network.to_graph, with_value=True), update_s=1e-3)
    fit = apprentice.fit(network.to_graph())
    assert fit is not None
    graph, ranges = fit
    assert widths(graph) == left
    assert graph.value_head is None
    assert graph.state_size == network.to_graph().state_size
    parsed = CompressionRecipe.parse(recipe)
    assert bool(ranges) == (parsed.is_trained_for and parsed.needs_calibration)
    assert compress(graph, parsed, metadata={}, ranges=ranges or None).model


def test_a_student_acts_once_it_is_close_enough():
    kind = Kind()
    network, apprentice = make_network_of(kind), make_apprentice(kind, "distill(16,16)+int8-dynamic", floor=0.02)
    for seed in range(4):
        apprentice.attend(lesson_of(kind, network, seed), partial(network.to_graph, with_value=True), update_s=0.0)
    apprentice.step()
    assert apprentice.divergence > 0.02
    assert apprentice.fit(network.to_graph()) is None
    for _ in range(2000):
        if apprentice.fit(network.to_graph()) is not None:
            break
        apprentice.step()
    assert apprentice.divergence <= 0.02


def test_an_update_pays_a_small_share_of_its_time():
    kind = Kind()
    network, apprentice = make_network_of(kind), make_apprentice(kind, "distill(6)+int8-dynamic")
    lesson, policy = lesson_of(kind, network, 1), partial(network.to_graph, with_value=True)
    apprentice.attend(lesson, policy, update_s=0.0)
    taken: list[float] = []
    original = apprentice.step
    apprentice.step = lambda: taken.append(original()) or taken[-1]  # type: ignore[method-assign] - it is watched
    for _ in range(50):
        apprentice.attend(lesson, policy, update_s=0.05)
    assert 0.08 * 50 * 0.05 <= sum(taken) <= 0.08 * 50 * 0.05 + max(taken)


def test_it_learns_while_the_learner_waits_and_stops_when_it_is_called():
    kind = Kind()
    network, apprentice = make_network_of(kind), make_apprentice(kind, "distill(6)+int8-dynamic")
    apprentice.practise(lambda: False, wait_s=10)  # without a lesson there is nothing to do
    apprentice.attend(lesson_of(kind, network, 1), partial(network.to_graph, with_value=True), update_s=0.0)
    apprentice.practise(lambda: apprentice.steps == 20, wait_s=60)
    assert apprentice.steps == 20
    began = time.monotonic()
    apprentice.practise(lambda: False, wait_s=0.05)
    assert apprentice.steps > 20
    assert time.monotonic() - began < 30


def test_it_keeps_to_the_policy_that_it_follows():
    kind = Kind(action=ARM)
    network, apprentice = make_network_of(kind), make_apprentice(kind, "qat+int8", floor=1e9)
    apprentice.attend(lesson_of(kind, network, 1), partial(network.to_graph, with_value=True), update_s=1e-3)
    with torch.no_grad():
        network.log_std.fill_(-1.5)
    network.normaliser.update(torch.randn(100, 3) * 9)
    policy = network.to_graph()
    fit = apprentice.fit(policy)
    assert fit is not None
    assert fit[0].heads["log_std"].bias.tolist() == [-1.5] * 4
    assert fit[0].observation_shift is not None
    assert fit[0].observation_shift.tolist() == policy.observation_shift.tolist()  # type: ignore[union-attr] - vectors


def test_static_ranges_are_those_of_the_lesson_to_begin_with():
    kind = Kind()
    network, apprentice = make_network_of(kind), make_apprentice(kind, "qat+int8-full", floor=1e9)
    lesson = lesson_of(kind, network, 1)
    apprentice.attend(lesson, partial(network.to_graph, with_value=True), update_s=1e-3)
    fit = apprentice.fit(network.to_graph())
    assert fit is not None
    calibrated = calibrate(network.to_graph(), lesson.observations.flatten(0, 1).numpy())
    assert set(calibrated) <= set(fit[1])
