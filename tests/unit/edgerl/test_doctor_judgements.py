"""What the doctor makes of what it finds: machines as they were seen, or as their files show them."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from compressor import CompressionRecipe, Layer, PolicyGraph, Precision, WeightScales, compress
from edge_actor.config import BoardSettings
from edge_actor.policy import Policy
from edgerl.doctor import board, checks, environment, learner, policies
from fleet_protocol.exit_codes import ExitCode, ProgramError

CPU_BUILD = {"version": "2.13.0+cpu", "cuda": None, "said": [], "gpus": [], "device": "cpu"}
CUDA_BUILD = CPU_BUILD | {"version": "2.13.0", "cuda": "12.8"}
WORKED = {"inference_us": 5.8, "logits": [0.7040653, -0.51555], "is_right": True}
# As tflite-runtime 2.14 said it, with numpy 2.2.6 and with numpy 1.26.4.
NUMPY_2 = {"failed": "SystemError: <built-in method CreateWrapperFromBuffer> returned a result with an exception set"}
PER_ROW = {"failed": "BadPolicyFile: Didn't find op for builtin opcode 'FULLY_CONNECTED' version '12'"}


def runtime(simple: dict[str, object], default: dict[str, object], *, numpy: str) -> dict[str, object]:
    answers = dict(zip(policies.RECIPES, (simple, default), strict=True))
    return {"runtime": "tflite-runtime 2.14.0", "numpy": numpy, "policies": answers}


# --- torch and its GPU ------------------------------------------------------------------------------------------------


def test_a_missing_torch_says_what_to_install():
    found = learner.judge_torch({"missing": True})
    assert (found.status, found.exit_code) == ("problem", ExitCode.DEPENDENCY_MISSING)
    assert "edgerl[learner]" in found.advice


def test_a_crashing_torch_is_a_problem_in_every_line_about_it():
    facts = {"broken": "its process failed: it was ended by signal 4"}
    assert learner.judge_torch(facts).status == "problem"
    assert learner.judge_arithmetic(facts).status == "problem"
    assert learner.judge_gpu_memory(facts).status == "ok"
    assert learner.judge_gpu(facts, "RTX 4090", device="auto").status == "warning"


@pytest.mark.parametrize(
    ("facts", "gpu", "device", "status", "words"),
    [
        (CPU_BUILD, "", "auto", "ok", "takes the CPU"),
        (CPU_BUILD, "", "cuda", "problem", "shows no NVIDIA GPU"),
        (CPU_BUILD, "RTX 4090, 24564 MiB, 535.1", "auto", "problem", "a build without CUDA"),
        (CPU_BUILD, "RTX 4090, 24564 MiB, 535.1", "cpu", "ok", "not used"),
        (CUDA_BUILD, "", "auto", "ok", "takes the CPU"),
        (
            CUDA_BUILD | {"said": ["The NVIDIA driver on your system is too old (found version 11040)."]},
            "RTX 4090, 24564 MiB, 470.2",
            "auto",
            "problem",
            "too old (found version 11040)",
        ),
        (CUDA_BUILD, "an NVIDIA GPU at 0000:01:00.0, for which no driver is loaded", "auto", "problem", "no driver"),
        (CUDA_BUILD | {"gpus": [{"name": "RTX 4090"}]}, "RTX 4090", "auto", "ok", "torch sees RTX 4090"),
    ],
)
def test_gpu_driver_and_build_are_held_against_each_other(
    facts: dict[str, object], gpu: str, device: str, status: str, words: str
):
    found = learner.judge_gpu(facts, gpu, device=device)
    assert (found.status, words in found.found) == (status, True), found


def test_a_gpu_is_found_by_its_driver_or_by_its_bus(tmp_path: Path):
    assert learner.find_gpu(tmp_path) == ""
    for name, vendor, kind in (("0000:00:02.0", "0x8086", "0x030000"), ("0000:01:00.1", "0x10de", "0x040300")):
        device = tmp_path / "sys/bus/pci/devices" / name
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    assert learner.find_gpu(tmp_path) == "", "another maker's, and the sound of a graphics card"
    (device / "class").write_text("0x030200\n")
    assert "no driver is loaded" in learner.find_gpu(tmp_path)
    version = tmp_path / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01\nGCC version: 12\n")
    assert learner.find_gpu(tmp_path).endswith("535.183.01")


def test_a_full_gpu_is_a_warning():
    gpus = [{"name": "A", "free_mb": 8000.0, "total_mb": 24000.0}, {"name": "B", "free_mb": 90.0, "total_mb": 24000.0}]
    assert learner.judge_gpu_memory({"gpus": gpus}).status == "warning"
    assert learner.judge_gpu_memory({"gpus": gpus[:1]}).status == "ok"


@pytest.mark.parametrize(
    ("error", "status"), [(5e-5, "ok"), (2e-2, "ok"), (30.0, "problem"), (float("nan"), "problem")]
)
def test_a_wrong_product_is_a_problem(error: float, status: str):
    facts = CPU_BUILD | {"multiply_ms": 1.0, "largest_error": error}
    assert learner.judge_arithmetic(facts).status == status


def test_a_product_that_fails_tells_why():
    found = learner.judge_arithmetic(CUDA_BUILD | {"failed": "RuntimeError: no kernel image is available"})
    assert found.status == "problem"
    assert "no kernel image" in found.found


# --- a board ----------------------------------------------------------------------------------------------------------


def test_a_runtime_that_runs_both_policies_is_well():
    assert board.judge_runtime(runtime(WORKED, WORKED, numpy="2.4.6")).status == "ok"


def test_a_runtime_for_another_numpy_is_told_apart_from_a_missing_one():
    found = board.judge_runtime(runtime(NUMPY_2, PER_ROW, numpy="2.2.6"))
    assert (found.status, found.exit_code) == ("problem", ExitCode.DEPENDENCY_MISSING)
    assert "numpy<2" in found.advice
    missing = board.judge_runtime({"numpy": "1.26.4", "broken": "ProgramError: no TFLite runtime is installed"})
    assert missing.status == "problem"
    assert "edgerl[actor]" in missing.advice


def test_a_runtime_without_scales_per_row_is_a_warning_for_the_learner():
    found = board.judge_runtime(runtime(WORKED, PER_ROW, numpy="1.26.4"))
    assert found.status == "warning"
    assert 'recipe = "int8-dynamic+per-tensor"' in found.advice


@pytest.mark.parametrize("wrong", [(0, 1), (1, 0)])
def test_a_runtime_that_computes_wrongly_is_a_problem(wrong: tuple[int, int]):
    answers = [WORKED | {"is_right": not is_wrong, "logits": [9.0, 9.0]} for is_wrong in wrong]
    assert board.judge_runtime(runtime(answers[0], answers[1], numpy="2.4.6")).status == "problem"


@pytest.mark.parametrize(("year", "status"), [(1970, "problem"), (2024, "problem"), (2026, "ok"), (2120, "problem")])
def test_an_impossible_year_is_a_problem(year: int, status: str):
    assert board.judge_clock(datetime(year, 6, 1, tzinfo=UTC)).status == status


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10), "problem"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "problem")]
)
def test_pythons_that_are_not_supported_are_a_problem(version: tuple[int, int], status: str):
    assert board.judge_python(version).status == status


def test_a_hot_board_on_a_weak_supply_is_told_so(tmp_path: Path):
    files = {
        "sys/devices/platform/soc/soc:firmware/get_throttled": "50005",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": "82000",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    probes = board.board_probes(BoardSettings(), root=tmp_path)
    assert probes["temperature"]().status == "warning"
    power = probes["power"]()
    assert (power.status, power.found) == ("warning", "under-voltage now, throttled now")


@pytest.mark.parametrize(("available_mb", "status"), [(None, "warning"), (90.0, "warning"), (800.0, "ok")])
def test_little_memory_is_a_warning(available_mb: float | None, status: str):
    assert board.judge_memory(available_mb).status == status


# --- the probe policies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", policies.RECIPES)
def test_the_probe_policies_are_what_our_compressor_makes_of_their_formula(recipe: str):
    inputs = np.array([[1, 0], [0, -1]] * 16, np.float32)
    hidden = (np.eye(32) * 0.5).astype(np.float32)
    head = np.array([[1, 0] * 16, [0.5, -1] * 16], np.float32) / 8
    graph = PolicyGraph(
        torso=(Layer(inputs, np.zeros(32, np.float32), "tanh"), Layer(hidden, np.zeros(32, np.float32), "tanh")),
        heads={"logits": Layer(head, np.array([0.25, -0.5], np.float32))},
    )
    stored = Policy(policies.policy_file(recipe), copies=1)
    scales = WeightScales.PER_TENSOR if recipe.endswith("per-tensor") else WeightScales.PER_CHANNEL
    metadata = {
        "run_id": "doctor",
        "policy_version": 1,
        "head": "categorical",
        "observation": {"type": "box", "shape": [2], "dtype": "float32"},
        "action": {"type": "discrete", "n": 2},
    }
    made = Policy(compress(graph, CompressionRecipe(Precision.INT8_DYNAMIC, scales), metadata=metadata).model, copies=1)
    for policy in (stored, made):
        policy.observation[...] = [policies.OBSERVATION]
        policy.infer()
    np.testing.assert_allclose(stored.outputs[0], made.outputs[0], rtol=0, atol=1e-6)
    h = np.tanh(np.tanh([0.5, 0.25]) / 2)
    exact = [2 * h[0] + 0.25, h[0] - 2 * h[1] - 0.5]
    np.testing.assert_allclose(policies.LOGITS, exact, rtol=0, atol=1e-4)
    np.testing.assert_allclose(stored.outputs[0][0], exact, rtol=0, atol=0.01)


# --- rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p99", "hz", "status"), [(6.5, 100, "ok"), (8.5, 100, "warning"), (9.5, 100, "problem")])
def test_a_rate_is_held_with_a_fifth_to_spare_or_it_is_told(p99: float, hz: float, status: str):
    found = environment.judge_rate({"p50": 1.0, "p99": p99, "max": 99.0}, control_hz=hz)
    assert found.status == status
    assert found.exit_code == (ExitCode.MACHINE_UNFIT if status == "problem" else ExitCode.OK)


def test_without_a_wanted_rate_the_highest_is_told():
    found = environment.judge_rate({"p50": 1.0, "p99": 7.0, "max": 99.0}, control_hz=0.0)
    assert (found.status, "up to 100 Hz" in found.found) == ("ok", True), "0.8 / (7 ms + 1 ms)"


# --- every check ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (ValueError("odd"), ExitCode.BUG),
        (RecursionError(), ExitCode.BUG),
        (ProgramError(ExitCode.CONFIG, "a wrong key"), ExitCode.CONFIG),
    ],
)
def test_a_check_that_raises_is_a_problem_line_and_the_next_one_runs(error: Exception, exit_code: ExitCode):
    def fail() -> checks.Finding:
        raise error

    first, second = checks.examine("board", {"first": fail, "second": lambda: checks.ok("fine")})
    assert (first.finding.status, first.finding.exit_code) == ("problem", exit_code)
    assert str(error) in first.finding.found
    assert second.finding.status == "ok"


def test_a_folder_is_judged_without_being_made(tmp_path: Path):
    wanted = tmp_path / "a/b"
    found = checks.check_folder(wanted, name="the folder", little_mb=1.0, advice="another")
    assert (found.status, list(tmp_path.iterdir())) == ("ok", [])
    assert checks.check_folder(wanted, name="the folder", little_mb=1e12, advice="another").status == "problem"
    free_mb = float(found.found.split("; ")[1].split()[0].replace(",", ""))
    assert checks.check_folder(wanted, name="it", little_mb=free_mb * 2, advice="another").status == "warning"


def test_a_folder_below_a_file_is_a_problem(tmp_path: Path):
    (tmp_path / "file").touch()
    found = checks.check_folder(tmp_path / "file/state", name="the folder", little_mb=1.0, advice="another")
    assert (found.status, found.exit_code, found.advice) == ("problem", ExitCode.STATE_UNUSABLE, "another")


def test_plugins_are_named_with_what_a_board_does_with_them():
    assert board.judge_plugins({}, ["gymnasium."]).status == "ok"
    said = board.judge_plugins({"some-envs": "some_envs.registration", "others": "others"}, ["some_envs"]).found
    assert "some-envs (some_envs.registration: allowed)" in said
    assert "others (others: not allowed, and never imported)" in said
