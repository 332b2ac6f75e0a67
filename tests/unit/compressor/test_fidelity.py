"""The report says how far a file is from its policy, by formulas recomputed here with loops."""

import json
import math
import sys

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from policy_factories import (
    NETWORKS,
    STATIC,
    export,
    make_observations,
    make_policy,
    make_recurrent,
    make_states,
)

from compressor import (
    CompressionRecipe,
    Gru,
    Lstm,
    MissingRuntimeError,
    Precision,
    compress,
    measure_fidelity,
    run_file,
)
from compressor.run_file import Delegation, run_model
from compressor.student import make_student


def softmax(logits):
    powers = [math.exp(x - max(logits)) for x in logits]
    return [power / sum(powers) for power in powers]


def gaussian_kl(mean_p, log_std_p, mean_q, log_std_q):
    """Integrate p log(p / q) over the real line for one action, by the midpoint rule."""
    std_p, std_q = math.exp(log_std_p), math.exp(log_std_q)
    total, steps = 0.0, 4000
    for step in range(steps):
        x = mean_p + std_p * (20 * (step + 0.5) / steps - 10)
        log_p = -0.5 * ((x - mean_p) / std_p) ** 2 - math.log(std_p)
        log_q = -0.5 * ((x - mean_q) / std_q) ** 2 - math.log(std_q)
        total += math.exp(log_p) * (log_p - log_q) * 20 * std_p / steps
    return total / math.sqrt(2 * math.pi)


def test_categorical_divergence_agreement_and_errors_are_the_definitions():
    graph, other = make_policy(), make_policy(activation="relu")
    observations = make_observations(graph, 20)
    report = measure_fidelity(graph, export(other), observations)
    expected, actual = graph.forward(observations)["logits"], run_model(export(other), observations)["logits"]
    kl = [
        sum(a * math.log(a / b) for a, b in zip(softmax(p), softmax(q), strict=True))
        for p, q in zip(expected.tolist(), actual.tolist(), strict=True)
    ]
    assert report.kl_mean == pytest.approx(sum(kl) / 20)
    assert report.kl_max == pytest.approx(max(kl))
    same = [
        max(range(3), key=list(p).__getitem__) == max(range(3), key=list(q).__getitem__)
        for p, q in zip(expected, actual, strict=True)
    ]
    assert 0 < sum(same) < 20
    assert report.agreement == pytest.approx(sum(same) / 20)
    errors = [abs(p - q) for p, q in zip(expected.flat, actual.flat, strict=True)]
    assert report.heads["logits"].largest_error == pytest.approx(max(errors))
    assert report.heads["logits"].rms_error == pytest.approx(math.sqrt(sum(e * e for e in errors) / 60))


def test_where_the_best_action_leads_by_more_than_any_error_is_counted_apart():
    graph, other = make_policy(), make_policy()
    other.heads["logits"].bias[:] += np.array([2.06, 1.97, 1.97], np.float32)  # 2, and errors of up to 0.06
    observations = make_observations(graph, 200)
    report = measure_fidelity(graph, export(other, Precision.FLOAT32), observations)
    margins = [max(row) - sorted(row)[-2] for row in graph.forward(observations)["logits"].tolist()]
    assert report.clear == pytest.approx(sum(margin > 0.06 for margin in margins) / 200, abs=0.005)
    assert report.agreement < 1
    assert report.agreement < report.agreement_where_clear <= 1


def test_branches_are_judged_one_by_one():
    graph = make_policy(actions=5)
    observations = make_observations(graph, 50)
    whole, parted = (measure_fidelity(graph, export(graph), observations, branches=cuts) for cuts in ([5], [2, 1, 2]))
    assert parted.clear < 1
    assert parted.agreement_where_clear == 1
    assert whole.kl_mean != parted.kl_mean


def test_what_does_not_fit_onto_a_static_grid_is_saturated():
    graph = NETWORKS["nature"]()
    seen = make_observations(graph, 60)
    model = compress(graph, CompressionRecipe(Precision.INT8_FULL), metadata={}, calibration=seen[:40] // 2).model
    assert measure_fidelity(graph, model, seen[:40] // 2).saturation == 0
    assert measure_fidelity(graph, model, seen[40:]).saturation == 1
    assert measure_fidelity(graph, export(graph), seen[40:]).saturation == 0


def test_a_students_grids_are_for_its_own_activations():
    teacher = NETWORKS["nature"]()
    student = make_student(teacher, (8, 8, 8, 32), seed=3)
    seen = make_observations(teacher, 40)
    model = compress(student, CompressionRecipe(Precision.INT8_FULL), metadata={}, calibration=seen).model
    assert measure_fidelity(teacher, model, seen, stored=student).saturation == 0
    assert measure_fidelity(teacher, model, seen).saturation > 0.5


def test_what_the_delegate_leaves_is_named(monkeypatch):
    graph = make_policy()
    model, observations = export(graph), make_observations(graph, 5)
    assert measure_fidelity(graph, model, observations).delegation == Delegation(partitions=1, left=[])

    plain = {"num_threads": 1, "experimental_op_resolver_type": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
    monkeypatch.setattr(run_file, "_interpreter", lambda model: Interpreter(model_content=model, **plain))
    parts = ["FULLY_CONNECTED", "TANH", "FULLY_CONNECTED", "TANH", "FULLY_CONNECTED"]
    assert run_file.read_delegation(model) == Delegation(partitions=0, left=parts)


def test_a_step_takes_time():
    graph = make_policy()
    time = measure_fidelity(graph, export(graph), make_observations(graph, 5)).time
    assert time.load_ms > 0
    assert 0 < time.p50_us <= time.p99_us


def test_gaussian_divergence_is_the_integral_of_its_definition():
    graph = make_policy(gaussian=True, actions=2)
    other = make_policy(gaussian=True, actions=2, activation="relu")
    other.heads["log_std"].bias[:] += [0.3, -0.2]
    observations = make_observations(graph, 3)
    report = measure_fidelity(graph, export(other, Precision.FLOAT32), observations)
    expected, actual = graph.forward(observations), other.forward(observations)
    kl = [
        sum(
            gaussian_kl(*(outputs[name][row, action] for outputs in (expected, actual) for name in ("mean", "log_std")))
            for action in range(2)
        )
        for row in range(3)
    ]
    assert report.kl_mean == pytest.approx(sum(kl) / 3, rel=1e-3)
    assert report.kl_max == pytest.approx(max(kl), rel=1e-3)


def test_gaussian_agreement_is_the_share_of_means_within_two_percent_of_their_range():
    graph, other = make_policy(gaussian=True), make_policy(gaussian=True)
    observations = make_observations(graph, 100)
    spread = np.ptp(graph.forward(observations)["mean"], axis=0)
    other.heads["mean"].bias[:] += np.float32(0.019) * spread.astype(np.float32)
    assert measure_fidelity(graph, export(other, Precision.FLOAT32), observations).agreement == 1.0
    other.heads["mean"].bias[1] += np.float32(0.002 * spread[1])
    assert measure_fidelity(graph, export(other, Precision.FLOAT32), observations).agreement == 0.0


@pytest.mark.parametrize("gaussian", [False, True])
def test_each_precision_is_closer_than_the_next(gaussian):
    graph = make_policy(gaussian=gaussian, value="own", normalised=True)
    observations = make_observations(graph, 300)
    precisions = [Precision.FLOAT32, Precision.FLOAT16, Precision.INT8_DYNAMIC]
    reports = [measure_fidelity(graph, export(graph, precision), observations) for precision in precisions]
    assert reports == sorted(reports, key=lambda report: report.kl_mean)
    assert reports[0].agreement == 1.0
    assert reports[0].kl_max < 1e-10
    assert reports[2].agreement > 0.95
    assert reports[2].kl_mean < 1e-3
    assert {"value"} < reports[2].heads.keys()


@pytest.mark.parametrize("precision", STATIC)
@pytest.mark.parametrize("network", ["mlp", "nature", "resnet"])
def test_static_int8_is_judged_like_any_other(network, precision):
    graph = NETWORKS[network]()
    report = measure_fidelity(graph, export(graph, precision), make_observations(graph, 50))
    assert report.agreement >= 0.8  # networks with random weights are often undecided
    assert 0 < report.kl_mean <= report.kl_max < 0.05
    assert report.bytes < report.bytes_float32


@pytest.mark.parametrize("kind", [Gru, Lstm])
def test_an_episode_is_played_with_each_sides_own_state(kind):
    graph = make_recurrent(kind, value=True)
    model, observations = export(graph), make_observations(graph, 12)
    report = measure_fidelity(graph, model, observations)
    exact, rounded, largest = np.zeros((1, graph.state_size)), np.zeros((1, graph.state_size), np.float32), 0.0
    for index in range(12):
        expected = graph.forward(observations[index : index + 1], exact)
        actual = run_model(model, observations[index : index + 1], rounded)
        largest = max(largest, abs(expected["value"] - actual["value"]).max())
        exact, rounded = expected["state_out"], actual["state_out"]
    assert report.heads["value"].largest_error == pytest.approx(largest)
    assert report.heads.keys() == {"logits", "value", "state_out"}


def test_given_states_are_used_one_for_each_observation():
    graph = make_recurrent(Lstm)
    model, observations, states = export(graph), make_observations(graph, 9), make_states(graph, 9)
    report = measure_fidelity(graph, model, observations, states=states)
    error = graph.forward(observations, states)["logits"] - run_model(model, observations, states)["logits"]
    assert report.heads["logits"].largest_error == pytest.approx(abs(error).max())
    assert report != measure_fidelity(graph, model, observations)


@pytest.mark.parametrize("shape", [(9, 96), (8, 95)])
def test_states_of_another_shape_are_refused(shape):
    graph = make_recurrent(Lstm)
    with pytest.raises(ValueError, match=r"states are float32 .* they must be float32 \[8, 96\]"):
        measure_fidelity(graph, export(graph), make_observations(graph, 8), states=np.zeros(shape, np.float32))


def test_states_for_a_policy_without_a_memory_are_refused():
    graph = make_policy()
    with pytest.raises(ValueError, match="no memory: leave them out"):
        measure_fidelity(graph, export(graph), make_observations(graph, 1), states=np.zeros((1, 4), np.float32))


def test_branches_choose_apart_and_their_divergences_add_up():
    graph, other = make_policy(actions=5), make_policy(actions=5, activation="relu")
    model, observations = export(other), make_observations(graph, 20)
    report = measure_fidelity(graph, model, observations, branches=[2, 3])
    expected, actual = graph.forward(observations)["logits"], run_model(model, observations)["logits"]
    divergences, agreed = [], 0
    for p, q in zip(expected.tolist(), actual.tolist(), strict=True):
        parts = [(p[:2], q[:2]), (p[2:], q[2:])]
        divergences.append(
            sum(
                a * math.log(a / b) for left, right in parts for a, b in zip(softmax(left), softmax(right), strict=True)
            )
        )
        agreed += all(left.index(max(left)) == right.index(max(right)) for left, right in parts)
    assert report.kl_mean == pytest.approx(sum(divergences) / 20)
    assert report.agreement == pytest.approx(agreed / 20)
    with pytest.raises(ValueError, match=r"branches \[2, 2\] sum to 4, but the policy has 5 logits"):
        measure_fidelity(graph, model, observations, branches=[2, 2])


def test_sizes_are_those_of_the_file_and_of_the_float32_file():
    graph = make_policy()
    report = measure_fidelity(graph, export(graph), make_observations(graph))
    assert report.bytes == len(export(graph))
    assert report.bytes_float32 == len(export(graph, Precision.FLOAT32))


def test_a_report_is_json_and_a_table():
    graph = make_policy(value="own")
    report = measure_fidelity(graph, export(graph), make_observations(graph))
    assert json.loads(json.dumps(report.as_dict()))["heads"]["value"]["rms_error"] == report.heads["value"].rms_error
    assert [line.split()[0] for line in report.to_table().splitlines()] == (
        ["bytes", "agreement", "where", "KL", "KL", "saturation", "logits", "value", "load,", "step", "in"]
    )


@pytest.mark.parametrize(
    "observations",
    [np.zeros((2, 4)), np.zeros((2, 5), np.float32), np.zeros(4, np.float32), np.zeros((0, 4), np.float32)],
    ids=["float64", "five features", "no batch", "none"],
)
def test_observations_of_another_shape_are_refused(observations):
    graph = make_policy()
    with pytest.raises(ValueError, match=r"they must be float32 \[N, 4\]"):
        measure_fidelity(graph, export(graph), observations)


def test_a_missing_runtime_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(MissingRuntimeError, match=r"pip install 'edgerl\[learner\]'"):
        run_model(export(make_policy()), np.zeros((1, 4), np.float32))
