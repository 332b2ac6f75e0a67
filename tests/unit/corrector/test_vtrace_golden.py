"""V-trace in float32 gives the numbers of other implementations: rlax, torchrl and scalable_agent.

`corrections.json` was made with rlax 0.1.9 and torchrl 0.14.1 in float64, on random inputs.
"""

import json
from pathlib import Path

import pytest
import torch

from corrector import vtrace_from_importance_weights, vtrace_from_logits

CORRECTIONS = json.loads(Path(__file__).with_name("corrections.json").read_text())


def assert_near(actual, expected):
    torch.testing.assert_close(actual, torch.as_tensor(expected), rtol=1e-5, atol=1e-5)


def column(case, name):
    """Return a stored sequence as a batch of one, `[T, 1]` or `[T, 1, A]`; floats in float32."""
    return torch.tensor(case[name]).unsqueeze(1)


def test_rlax_own_case():
    actual = vtrace_from_logits(
        torch.tensor(
            [
                [[8.9, 0.7], [5.0, 1.0], [0.6, 0.1], [-0.9, -0.1]],
                [[0.3, -5.0], [1.0, -8.0], [0.3, 1.7], [4.7, 3.3]],
            ]
        ).transpose(0, 1),
        torch.tensor(
            [
                [[0.4, 0.5], [9.2, 8.8], [0.7, 4.4], [7.9, 1.4]],
                [[1.0, 0.9], [1.0, -1.0], [-4.3, 8.7], [0.8, 0.3]],
            ]
        ).transpose(0, 1),
        torch.tensor([[0, 1, 0, 0], [1, 0, 0, 1]]).T,
        discounts=torch.tensor([[0.0, 0.89, 0.85, 0.99], [0.88, 1.0, 0.83, 0.95]]).T,
        rewards=torch.tensor([[-1.3, -1.3, 2.3, 42.0], [1.3, 5.3, -3.3, -5.0]]).T,
        values=(values := torch.tensor([[2.1, 1.1, -3.1, 0.0], [3.1, 0.1, -1.1, 7.4]]).T),
        bootstrap_value=torch.tensor([8.4, -1.2]),
    )
    expected = [
        [-1.6155143, -3.4973226, 1.8670534, 50.316],
        [1.4662434, 3.6116402, -8.336924e-5, -13.54],
    ]
    assert_near((actual.vs - values).T, expected)


def test_scalable_agents_own_recipe():
    steps = torch.arange(25.0).reshape(5, 5)
    actual = vtrace_from_importance_weights(
        5 * (steps / 25 - 0.5),
        discounts=(0.9 / torch.arange(1.0, 6.0)).expand(5, 5),
        rewards=steps,
        values=steps / 5,
        bootstrap_value=torch.arange(5.0) + 1,
        clip_rho_threshold=3.7,
        clip_pg_rho_threshold=2.2,
    )
    assert_near(actual.vs[0], [0.929815, 0.556437, 0.816895, 1.189767, 1.654995])
    assert_near(actual.vs[4], [66.53, 69.69, 72.85, 76.01, 79.17])
    assert_near(actual.pg_advantages[0], [0.929815, 0.356437, 0.416895, 0.589767, 0.854995])


@pytest.mark.parametrize("case", CORRECTIONS["vtrace"])
def test_stored_answers_of_rlax(case):
    actual = vtrace_from_logits(
        column(case, "behavior_logits"),
        column(case, "target_logits"),
        column(case, "actions"),
        discounts=column(case, "discounts"),
        rewards=column(case, "rewards"),
        values=column(case, "values"),
        bootstrap_value=torch.tensor([case["bootstrap_value"]]),
        lambda_=case["lambda_"],
        clip_rho_threshold=case["clip_rho_threshold"],
        clip_c_threshold=case["clip_c_threshold"],
        clip_pg_rho_threshold=case["clip_pg_rho_threshold"],
    )
    assert_near(actual.vs, column(case, "vs"))
    assert_near(actual.pg_advantages, column(case, "pg_advantages"))


@pytest.mark.parametrize("case", CORRECTIONS["packed_vtrace"])
def test_stored_answers_of_torchrl_for_packed_episodes(case):
    actual = vtrace_from_importance_weights(
        column(case, "target_log_prob") - column(case, "behavior_log_prob"),
        discounts=case["gamma"] * ~column(case, "terminated"),
        rewards=column(case, "rewards"),
        values=column(case, "values"),
        bootstrap_value=torch.tensor([case["bootstrap_value"]]),
        truncated=column(case, "truncated"),
        final_values=column(case, "final_values"),
        lambda_=case["lambda_"],
        clip_rho_threshold=case["clip_rho_threshold"],
        clip_c_threshold=case["clip_c_threshold"],
    )
    assert_near(actual.vs, column(case, "vs"))
    assert_near(actual.pg_advantages, column(case, "pg_advantages"))
