"""The steps of a recipe that train, one after the other, in a world that is a random walk."""

import numpy as np
import pytest
from policy_factories import NETWORKS, make_policy

from compressor import CompressionRecipe, Convolution, Layer, compress, measure_fidelity
from compressor.training import Visit, train


class World:
    """Observations of a random walk, whatever the policy does; counts who has acted in it."""

    def __init__(self, shape, *, state_size=0, seed=0):
        self.shape, self.state_size, self.students = shape, state_size, []
        self._generator = np.random.default_rng(seed)

    def visit(self, student):
        self.students.append(student)
        steps = self._generator.standard_normal((16, 32, *self.shape)).cumsum(axis=0) / 4
        is_first = np.zeros((16, 32), np.bool_)
        is_first[0] = True
        return Visit(
            steps.astype(np.float32), is_first, np.zeros((32, self.state_size), np.float32) if self.state_size else None
        )


def widths(graph):
    return [block.bias.size for block in graph.torso if isinstance(block, Layer | Convolution)]


def judged(teacher, trained, recipe, world):
    lately, now = (world.visit(None).observations.reshape(-1, *world.shape) for _ in range(2))
    model = compress(trained.graph, recipe, metadata={}, ranges=trained.ranges, calibration=lately).model
    return measure_fidelity(teacher, model, now)


@pytest.mark.parametrize(
    ("text", "left", "phases"),
    [
        ("int8-dynamic", [64, 64], []),
        ("distill(48,24)+float32", [48, 24], ["distill"]),
        ("prune(0.5)+int8-dynamic", [32, 32], ["prune"]),
        ("distill(48,48)+prune(0.5)+qat+int8-full", [24, 24], ["distill", "prune", "qat"]),
    ],
)
def test_each_step_makes_its_policy_and_students_see_what_they_visit(text, left, phases):
    teacher, recipe = make_policy(features=4, value="own"), CompressionRecipe.parse(text)
    world, told = World((4,)), []
    trained = train(teacher, recipe, world.visit, steps=40, visit_every=10, told=lambda *each: told.append(each))
    assert widths(trained.graph) == left
    assert list(dict.fromkeys(phase for phase, *_ in told)) == phases
    assert [each for each in told if each[1] == each[2]] == [(phase, 40, 40) for phase in phases]
    assert len(world.students) == 4 * len(phases)
    assert (trained.ranges is not None) == recipe.is_trained_for
    assert judged(teacher, trained, recipe, world).kl_mean >= 0


def test_what_pruning_lost_is_learned_back():
    teacher, recipe = make_policy(features=4), CompressionRecipe.parse("prune(0.5)+float32")
    world = World((4,))
    at_once, later = (train(teacher, recipe, world.visit, steps=steps) for steps in (1, 600))
    before, after = (judged(teacher, trained, recipe, world).kl_mean for trained in (at_once, later))
    assert after < before / 4


def test_a_policy_learns_to_be_rounded():
    teacher = make_policy(features=4, width=32)
    outlier = teacher.torso[1]
    outlier.weight[:, 0] *= 40  # a scale for each row has to reach this far
    outlier.weight[:, 1:] /= 4
    rounded, learned = CompressionRecipe.parse("int8-full"), CompressionRecipe.parse("qat+int8-full")
    world = World((4,))
    trained = train(teacher, learned, world.visit, steps=1200)
    before = judged(teacher, train(teacher, rounded, world.visit), rounded, world)
    after = judged(teacher, trained, learned, world)
    assert after.kl_mean < 0.7 * before.kl_mean


@pytest.mark.parametrize("network", ["gru", "lstm"])
def test_a_student_has_a_memory_of_the_same_size_and_learns_what_is_in_it(network):
    teacher, recipe = NETWORKS[network](), CompressionRecipe.parse("distill(32)+int8-dynamic")
    world = World(teacher.observation_shape, state_size=teacher.state_size)
    at_once, later = (train(teacher, recipe, world.visit, steps=steps).graph for steps in (1, 300))
    visit = world.visit(None)
    before, after = (
        measure_fidelity(teacher, compress(graph, recipe, metadata={}).model, visit.observations[:, 0])
        for graph in (at_once, later)
    )
    assert after.kl_mean < before.kl_mean / 2
    assert after.heads["state_out"].rms_error < before.heads["state_out"].rms_error
