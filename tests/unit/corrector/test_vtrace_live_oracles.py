"""V-trace agrees with rlax and torchrl as they are installed here, on random inputs; skipped without them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from corrector import vtrace_from_importance_weights

PROGRAM = Path(__file__).with_name("live_oracles.py")
NOT_INSTALLED = 3  # as the program exits
ONE_THREAD = {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore"}


def ask(oracle, cases):
    """Return the answers of `oracle`, or skip the test where it cannot be imported."""
    finished = subprocess.run(
        [sys.executable, str(PROGRAM), oracle],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        env=os.environ | ONE_THREAD,
        check=False,
    )
    if finished.returncode == NOT_INSTALLED:
        pytest.skip(f"{oracle} cannot be imported: {finished.stderr.strip()}")
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def as_case(batch, **options):
    """Return a batch of one column as lists, and its bootstrap value as a number."""
    return {name: tensor.squeeze(-1).tolist() for name, tensor in batch.items()} | options


def assert_agrees(actual, answer):
    for field in ("vs", "pg_advantages"):
        expected = torch.tensor(answer[field], dtype=torch.float64)
        torch.testing.assert_close(getattr(actual, field).squeeze(-1), expected, rtol=1e-5, atol=1e-5)


RLAX_OPTIONS = [
    {"lambda_": 1.0, "clip_rho_threshold": 1.0, "clip_pg_rho_threshold": 1.0},
    {"lambda_": 0.8, "clip_rho_threshold": 1.0, "clip_pg_rho_threshold": 2.2},
    {"lambda_": 0.95, "clip_rho_threshold": 3.7, "clip_pg_rho_threshold": 1.0},
    {"lambda_": 0.0, "clip_rho_threshold": 9.0, "clip_pg_rho_threshold": 9.0},
]


def test_rlax_agrees(make_batch):
    batches = [make_batch(seed, T=20, B=1, p_truncated=0.0) for seed in range(len(RLAX_OPTIONS))]
    for batch in batches:
        del batch["truncated"], batch["final_values"]
    cases = [as_case(batch, **options) for batch, options in zip(batches, RLAX_OPTIONS, strict=True)]

    for batch, options, answer in zip(batches, RLAX_OPTIONS, ask("rlax", cases), strict=True):
        assert_agrees(vtrace_from_importance_weights(**batch, **options), answer)


def test_torchrl_agrees_on_packed_episodes(make_batch):
    batches = [make_batch(seed, T=20, B=1) for seed in range(4)]
    cases = []
    for batch, rho_bar in zip(batches, (1.0, 1.5, 3.7, 9.0), strict=True):
        following = torch.cat([batch["values"][1:], batch["bootstrap_value"].unsqueeze(0)])
        next_values = torch.where(batch["final_values"].isnan(), following, batch["final_values"])
        wanted = {name: batch[name] for name in ("log_rhos", "discounts", "rewards", "values", "truncated")}
        cases.append(as_case(wanted | {"next_values": next_values}, gamma=0.9, clip_rho_threshold=rho_bar))

    for batch, case, answer in zip(batches, cases, ask("torchrl", cases), strict=True):
        rho_bar = case["clip_rho_threshold"]
        actual = vtrace_from_importance_weights(**batch, clip_rho_threshold=rho_bar, clip_pg_rho_threshold=rho_bar)
        assert_agrees(actual, answer)
