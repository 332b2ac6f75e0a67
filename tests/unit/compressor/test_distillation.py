"""Students: their shapes, the loss against torch's own distributions, and that they come to act like their teachers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from policy_factories import NETWORKS, make_nature, make_observations, make_policy, make_states
from torch.distributions import Categorical, Normal, kl_divergence

from compressor import Convolution, Layer, UnsupportedPolicyError, compress, measure_fidelity
from compressor.distillation import Distiller, Lesson, distillation_loss
from compressor.recipe import float32
from compressor.student import make_student
from compressor.torch_policy import TorchPolicy


def widths(graph):
    return [block.bias.size for block in graph.torso if isinstance(block, Layer | Convolution)]


@pytest.mark.parametrize(
    ("network", "narrow"),
    [
        ("mlp", [8, 12, 16]),
        ("mlp", [8]),
        ("nature", [8, 16, 16, 64]),
        ("resnet", [8, 16, 32]),
        ("gru", [24]),
        ("lstm", [24]),
        ("images and gru", [8, 16, 16, 64]),
    ],
)
def test_a_student_is_narrower_and_a_board_sees_no_other_difference(network, narrow):
    teacher = NETWORKS[network]()
    student = make_student(teacher, narrow)
    assert widths(student) == narrow
    assert student.state_size == teacher.state_size
    assert len(compress(student, float32(), metadata={}).model) < len(compress(teacher, float32(), metadata={}).model)
    observations = make_observations(teacher, 3)
    states = make_states(teacher, 3) if teacher.memory else None
    expected, actual = teacher.forward(observations, states), student.forward(observations, states)
    assert {name: values.shape for name, values in actual.items()} == {
        name: values.shape for name, values in expected.items()
    }


def test_convolutions_get_a_width_each():
    with pytest.raises(UnsupportedPolicyError, match=r"distill\(64,64\) gives 2 widths, but .* has 4 .*: give 4"):
        make_student(make_nature(size=44), [64, 64])


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("branches", [None, [2, 1, 3]])
def test_the_loss_of_logits_and_value(branches, temperature):
    generator = torch.Generator().manual_seed(1)
    taught, said = (
        {"logits": torch.randn(5, 4, 6, generator=generator), "value": 40 * torch.randn(5, 4, 1, generator=generator)}
        for _ in range(2)
    )
    sizes = branches or [6]
    cut = [[part.double() / temperature for part in each["logits"].split(sizes, -1)] for each in (taught, said)]
    kl = sum(kl_divergence(Categorical(logits=p), Categorical(logits=q)) for p, q in zip(*cut, strict=True))
    error = (taught["value"] - said["value"]).double().square().mean() / taught["value"].double().var(correction=0)
    expected = temperature**2 * kl.mean() + error
    loss = distillation_loss(taught, said, branches=branches, temperature=temperature)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_of_a_gaussian():
    generator = torch.Generator().manual_seed(1)
    taught, said = ({name: torch.randn(7, 3, generator=generator) for name in ("mean", "log_std")} for _ in range(2))
    normals = [Normal(each["mean"].double(), each["log_std"].double().exp()) for each in (taught, said)]
    expected = kl_divergence(*normals).sum(-1).mean().item()
    assert distillation_loss(taught, said).item() == pytest.approx(expected, rel=1e-5)


def test_a_value_that_never_changes_and_one_that_the_student_lacks_are_no_trouble():
    same = torch.zeros(4, 2)
    taught = {"logits": same, "value": torch.ones(4, 1)}
    assert distillation_loss(taught, {"logits": same, "value": torch.ones(4, 1)}).item() == 0
    assert distillation_loss(taught, {"logits": same}).item() == 0


@pytest.mark.parametrize("gaussian", [False, True])
def test_a_student_comes_to_act_like_its_teacher(gaussian):
    teacher = make_policy(features=6, width=96, actions=3, gaussian=gaussian, value="own", normalised=True)
    student = make_student(teacher, [32, 32], seed=1)
    torch.manual_seed(1)
    distiller = Distiller(TorchPolicy(student), learning_rate=3e-3)
    guide = TorchPolicy(teacher)
    observations = make_observations(teacher, 4096, seed=1)
    for step in range(600):
        distiller.set_learning_rate(3e-3 * (1 - step / 600))
        seen = torch.from_numpy(observations[np.random.default_rng(step).integers(len(observations), size=256)])
        with torch.no_grad():
            taught = guide(seen)
        distiller.step(Lesson(seen, taught))
    unseen = make_observations(teacher, 500, seed=2)
    before, after = (
        measure_fidelity(teacher, compress(graph, float32(), metadata={}).model, unseen)
        for graph in (student, distiller.student.to_graph())
    )
    assert after.kl_mean < before.kl_mean / 8
    assert after.heads["value"].rms_error < before.heads["value"].rms_error / 3
    if not gaussian:
        assert after.agreement > before.agreement + 0.5


def test_a_student_follows_what_is_not_learned():
    teacher = make_policy(features=4, gaussian=True, normalised=True)
    distiller = Distiller(TorchPolicy(make_student(teacher, [16])))
    moved = replace(
        teacher,
        observation_shift=teacher.observation_shift + 1,
        heads={**teacher.heads, "log_std": replace(teacher.heads["log_std"], bias=np.full(3, -2, np.float32))},
    )
    distiller.follow(moved)
    student = distiller.student.to_graph()
    assert np.array_equal(distiller.student.observation_shift.numpy(), moved.observation_shift)
    assert np.array_equal(student.heads["log_std"].bias, moved.heads["log_std"].bias)
    assert not student.heads["log_std"].weight.any()
