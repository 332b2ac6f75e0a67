"""Can this machine lead a run? torch and its GPU, the state folder, the broker."""

import importlib.util
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cloud_learner.config import SIGNED_KINDS, LearnerSettings
from edgerl.doctor.checks import Finding, Probe, check_broker, check_folder, check_open_files, ok, problem, warning
from edgerl.doctor.child import ChildFailed, ask_child
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.signing_keys import SigningKeys

_LITTLE_STATE_MB: Final = 1000.0
_LITTLE_GPU_MB: Final = 1000.0
_NVIDIA_SMI_WAIT_S: Final = 20.0
_WRONG_PRODUCT: Final = 1.0
_NVIDIA: Final = "0x10de"
_DISPLAY_CLASS: Final = "0x03"
_INSTALL: Final = "pip install 'edgerl[learner]'"
_CUDA_BUILD: Final = (
    'install PyTorch\'s build for CUDA (see pytorch.org), or set device = "cpu" to learn without the GPU'
)


def learner_probes(settings: LearnerSettings) -> dict[str, Probe]:
    """The checks of a learner, by id, in the order in which they make sense."""
    facts: dict[str, Any] = {}

    def torch() -> Finding:
        facts.update(ask_torch(settings.device))
        return judge_torch(facts)

    return {
        "torch": torch,
        "gpu": lambda: judge_gpu(facts, find_gpu(), device=settings.device),
        "gpu_memory": lambda: judge_gpu_memory(facts),
        "arithmetic": lambda: judge_arithmetic(facts),
        "compressor": check_compressor,
        "state": lambda: check_folder(
            Path(settings.state),
            name="the state folder",
            little_mb=_LITTLE_STATE_MB,
            advice="choose another folder with --state",
        ),
        "keys": lambda: check_keys(settings),
        "open_files": check_open_files,
        "broker": lambda: check_broker(settings),
    }


def ask_torch(device: str) -> dict[str, Any]:
    """Facts about torch, as `child.torch_facts` gives them; `broken` where its process crashed."""
    if importlib.util.find_spec("torch") is None:
        return {"missing": True}
    try:
        return ask_child("torch", device)
    except ChildFailed as error:
        return {"broken": f"its process failed: {error}"}


def check_keys(settings: LearnerSettings) -> Finding:
    """Would boards take what this learner signs, and for how long?"""
    keys = SigningKeys.of(settings, kinds=SIGNED_KINDS, role="learner")
    if keys is None:
        return ok("nothing is signed: only boards without a root key, on this machine, will act on it")
    if keys.problem:
        return warning(keys.problem, "`edgerl keys renew DIR`, and put the new keyring where this one is")
    return ok(f"{settings.keyring} lets key {keys.signer.key.key_id} lead runs")


def find_gpu(root: Path = Path("/")) -> str:
    """The NVIDIA GPU of this machine and its driver, in words; empty where there is none.

    Args:
        root: The folder that holds `proc` and `sys`.
    """
    if (nvidia_smi := shutil.which("nvidia-smi")) is not None and root == Path("/"):
        query = [nvidia_smi, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        asked = subprocess.run(query, capture_output=True, text=True, timeout=_NVIDIA_SMI_WAIT_S, check=False)
        if asked.returncode == 0 and asked.stdout.strip():
            return "; ".join(asked.stdout.strip().splitlines())
    if (version := root / "proc/driver/nvidia/version").is_file():
        return version.read_text(encoding="utf-8", errors="replace").splitlines()[0]
    for device in root.glob("sys/bus/pci/devices/*"):
        if _is_nvidia_gpu(device):
            return f"an NVIDIA GPU at {device.name}, for which no driver is loaded"
    return ""


def judge_torch(facts: Mapping[str, Any]) -> Finding:
    """Is torch there, and what was it built for?"""
    if "missing" in facts:
        return problem("torch is not installed", _INSTALL, ExitCode.DEPENDENCY_MISSING)
    if "broken" in facts:
        advice = "install torch again, in a build for this processor and Python"
        return problem(f"torch cannot be used: {facts['broken']}", advice, ExitCode.DEPENDENCY_MISSING)
    build = f"built for CUDA {facts['cuda']}" if facts["cuda"] else "a build for the CPU alone"
    return ok(f"torch {facts['version']}, {build}")


def judge_gpu(facts: Mapping[str, Any], gpu: str, *, device: str) -> Finding:
    """Does torch see the GPU that is there?

    Args:
        facts: What `ask_torch` gave.
        gpu: What `find_gpu` found.
        device: The learner's setting: with `cpu` a GPU that is not used is no problem.
    """
    seen = ", ".join(found["name"] for found in facts.get("gpus", []))
    if seen:
        return ok(f"torch sees {seen}")
    wanted = device.startswith("cuda")
    if not gpu:
        if wanted:
            return problem(
                f"device = {device!r} is set, and this machine shows no NVIDIA GPU",
                'install the driver (`nvidia-smi` must list the GPU), or set device = "auto"',
                ExitCode.MACHINE_UNFIT,
            )
        return ok("no NVIDIA GPU is here: the learner takes the CPU")
    if device == "cpu":
        return ok(f'not used, because of device = "cpu": {gpu}')
    return _unseen(facts, gpu)


def judge_gpu_memory(facts: Mapping[str, Any]) -> Finding:
    """Is there memory left on the GPUs that torch sees?"""
    gpus = facts.get("gpus", [])
    if not gpus:
        return ok("no GPU is used")
    found = "; ".join(f"{gpu['name']}: {gpu['free_mb']:,.0f} of {gpu['total_mb']:,.0f} MB free" for gpu in gpus)
    if min(gpu["free_mb"] for gpu in gpus) < _LITTLE_GPU_MB:
        return warning(found, "end what else runs on it (`nvidia-smi` lists the programs)")
    return ok(found)


def judge_arithmetic(facts: Mapping[str, Any]) -> Finding:
    """Does a product of matrices on the learner's device come out right?"""
    if "device" not in facts:
        return problem("not tried, because torch cannot be used", "see the line about torch", ExitCode.MACHINE_UNFIT)
    device = facts["device"]
    if "failed" in facts:
        return problem(
            f"a product of matrices on {device} failed: {facts['failed']}",
            "the driver, the GPU and torch's build do not fit together: update the driver, or take another build",
            ExitCode.MACHINE_UNFIT,
        )
    error = facts["largest_error"]
    found = f"1024 x 1024 matrices multiplied on {device} in {facts['multiply_ms']:.1f} ms, largest error {error:.1g}"
    if not error < _WRONG_PRODUCT:  # so, and not >=, because of nan
        return problem(found, "the results are wrong: do not learn on this device", ExitCode.MACHINE_UNFIT)
    return ok(found)


def check_compressor() -> Finding:
    """Can policies be written into files?"""
    if importlib.util.find_spec("flatbuffers") is None:
        return problem("flatbuffers is not installed: no policy can be written", _INSTALL, ExitCode.DEPENDENCY_MISSING)
    return ok("flatbuffers is installed: policies can be written")


def _unseen(facts: Mapping[str, Any], gpu: str) -> Finding:
    if "device" not in facts:
        return warning(f"{gpu}; torch cannot be asked about it", "see the line about torch")
    if not facts["cuda"]:
        found = f"{gpu}; but torch {facts['version']} is a build without CUDA"
        return problem(found, _CUDA_BUILD, ExitCode.MACHINE_UNFIT)
    said = "; ".join(facts["said"]) or "torch does not say why"
    return problem(
        f"{gpu}; but torch, built for CUDA {facts['cuda']}, cannot use it: {said}",
        f"update the driver to one for CUDA {facts['cuda']}, or install a build of torch for an older CUDA",
        ExitCode.MACHINE_UNFIT,
    )


def _is_nvidia_gpu(device: Path) -> bool:
    try:
        vendor, kind = ((device / name).read_text(encoding="ascii").strip() for name in ("vendor", "class"))
    except OSError:
        return False
    return vendor == _NVIDIA and kind.startswith(_DISPLAY_CLASS)
