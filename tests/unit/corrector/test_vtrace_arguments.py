"""V-trace refuses what does not fit together, and the message names the argument."""

import re

import pytest
import torch

from corrector import vtrace_from_importance_weights, vtrace_from_logits


@pytest.mark.parametrize("name", ["discounts", "rewards", "values", "truncated", "final_values"])
def test_an_array_of_another_shape_is_refused_by_name(make_batch, name):
    batch = make_batch(T=9, B=3)
    batch[name] = batch[name][:, :1]
    with pytest.raises(ValueError, match=re.escape(f"{name}: expected shape [9, 3], got [9, 1]")):
        vtrace_from_importance_weights(**batch)


def test_a_bootstrap_value_with_a_time_dimension_is_refused(make_batch):
    batch = make_batch(T=9, B=3)
    batch["bootstrap_value"] = batch["bootstrap_value"].unsqueeze(0)
    with pytest.raises(ValueError, match=re.escape("bootstrap_value: expected shape [3], got [1, 3]")):
        vtrace_from_importance_weights(**batch)


def test_a_single_sequence_without_a_batch_dimension_is_refused(make_batch):
    batch = {name: tensor.squeeze(-1) for name, tensor in make_batch(T=9, B=1).items()}
    with pytest.raises(ValueError, match=re.escape("log_rhos: expected 2 dimensions, got shape [9]")):
        vtrace_from_importance_weights(**batch)


def test_logits_of_different_action_spaces_are_refused(make_batch):
    batch = make_batch(T=9, B=3)
    del batch["log_rhos"]
    actions = torch.zeros(9, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=re.escape("target_logits: expected shape [9, 3, 2], got [9, 3, 4]")):
        vtrace_from_logits(torch.zeros(9, 3, 2), torch.zeros(9, 3, 4), actions, **batch)


@pytest.mark.parametrize("missing", ["truncated", "final_values"])
def test_truncations_and_final_values_come_together(make_batch, missing):
    batch = make_batch()
    del batch[missing]
    with pytest.raises(ValueError, match="truncated and final_values: expected both or neither"):
        vtrace_from_importance_weights(**batch)


@pytest.mark.parametrize(("rho_bar", "c_bar"), [(0.5, 1.0), (2.0, None)])
def test_rho_bar_below_c_bar_is_refused(make_batch, rho_bar, c_bar):
    with pytest.raises(ValueError, match="clip_rho_threshold: expected at least clip_c_threshold"):
        vtrace_from_importance_weights(**make_batch(), clip_rho_threshold=rho_bar, clip_c_threshold=c_bar)
