"""`python -m edgerl.doctor.child torch|runtime`: try out what may crash or hang, in a process of its own.

A wheel for another processor dies of an illegal instruction, and a driver may never answer; only this child would.
It prints what it found as one line of JSON.
"""

import json
import subprocess
import sys
import time
import warnings
from typing import Any, Final

import numpy as np

from edgerl.doctor.policies import LOGITS, OBSERVATION, RECIPES, policy_file

_WAIT_S: Final = 120.0
_MATRIX: Final = 1024
_LINES_OF_AN_ERROR: Final = 1

_INT8_ERROR: Final = 0.02


class ChildFailed(Exception):
    """The child ended without an answer; says how."""


def ask_child(what: str, *arguments: str) -> dict[str, Any]:
    """Run this module in a process of its own, and return what it found.

    Raises:
        ChildFailed: It crashed, or did not end in time.
    """
    command = [sys.executable, "-m", "edgerl.doctor.child", what, *arguments]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ChildFailed(f"it did not end within {_WAIT_S:.0f} s") from error
    if ended.returncode < 0:
        raise ChildFailed(f"it was ended by signal {-ended.returncode} (4: illegal instruction, 11: bad memory access)")
    try:
        return json.loads(ended.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        last = "; ".join(ended.stderr.strip().splitlines()[-_LINES_OF_AN_ERROR:])
        raise ChildFailed(f"it ended with code {ended.returncode}: {last or 'it said nothing'}") from error


def torch_facts(device: str) -> dict[str, Any]:
    """What torch is, which GPUs it sees, and one product of matrices on `device` (auto, cpu, cuda or cuda:N)."""
    try:
        import torch  # noqa: PLC0415 - seconds, and not installed on boards
    except Exception as error:  # noqa: BLE001 - a broken wheel raises anything
        return {"broken": _said_by(error)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sees_gpu = torch.cuda.is_available()
    said = [str(warning.message) for warning in caught]
    if torch.version.cuda and not sees_gpu:
        said += _raised_by(torch.cuda.init)
    facts: dict[str, Any] = {"version": torch.__version__, "cuda": torch.version.cuda, "said": said, "gpus": []}
    for index in range(torch.cuda.device_count() if sees_gpu else 0):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        facts["gpus"].append({"name": name, "free_mb": free / 1e6, "total_mb": total / 1e6})
    chosen = ("cuda" if sees_gpu else "cpu") if device == "auto" else device
    return facts | {"device": chosen} | _multiply(torch, chosen)


def runtime_facts() -> dict[str, Any]:
    """Which TFLite runtime is installed, and what it makes of each of our probe policies."""
    facts: dict[str, Any] = {"numpy": np.__version__, "policies": {}}
    try:
        from edge_actor.policy import interpreter_class  # noqa: PLC0415 - what is missing is an answer

        _, facts["runtime"] = interpreter_class()
    except Exception as error:  # noqa: BLE001 - a broken wheel raises anything
        return facts | {"broken": _said_by(error)}
    for recipe in RECIPES:
        facts["policies"][recipe] = _run_policy(recipe)
    return facts


def _run_policy(recipe: str) -> dict[str, Any]:
    from edge_actor.policy import Policy  # noqa: PLC0415 - as above

    try:
        policy = Policy(policy_file(recipe), copies=1)
        policy.warm_up()
        policy.observation[...] = [OBSERVATION]
        started = time.perf_counter_ns()
        policy.infer()
        inference_us = (time.perf_counter_ns() - started) / 1e3
    except Exception as error:  # noqa: BLE001 - a runtime built for another numpy raises SystemError
        return {"failed": _said_by(error)}
    logits = policy.outputs[0][0]
    is_right = bool(np.allclose(logits, LOGITS, rtol=0, atol=_INT8_ERROR))
    return {"inference_us": inference_us, "logits": logits.tolist(), "is_right": is_right}


def _multiply(torch: Any, device: str) -> dict[str, Any]:  # noqa: ANN401 - the module
    """One product of matrices, compared with numpy's in float64."""
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, _MATRIX, _MATRIX), np.float32)
    try:
        a, b = (torch.from_numpy(matrix).to(device) for matrix in (left, right))
        (a @ b).sum().item()  # the first one loads kernels
        started = time.perf_counter()
        product = (a @ b).cpu().numpy()
        elapsed_s = time.perf_counter() - started
    except Exception as error:  # noqa: BLE001 - drivers and builds fail in many ways, and each is an answer
        return {"failed": _said_by(error)}
    # float32 errs by 1e-5 here, TF32 by 1e-2; what a wrong kernel gives is of the order of the product itself, 32.
    largest_error = float(np.abs(product - left.astype(np.float64) @ right.astype(np.float64)).max())
    return {"multiply_ms": elapsed_s * 1e3, "largest_error": largest_error}


def _said_by(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _raised_by(call: Any) -> list[str]:  # noqa: ANN401 - any function
    try:
        call()
    except Exception as error:  # noqa: BLE001 - the sentence is what we are after
        return [str(error)]
    return []


if __name__ == "__main__":
    print(json.dumps(torch_facts(sys.argv[2]) if sys.argv[1] == "torch" else runtime_facts()))  # noqa: T201
