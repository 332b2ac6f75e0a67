"""The code keeps its shape: contracts bite, files stay small, a board needs no training stack."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [
    *("benchmarks", "cloud_learner", "compressor", "corrector", "edge_actor", "edgerl", "firmware_scripts"),
    *("fleet_manager", "fleet_monitor", "fleet_protocol"),
]
VIOLATIONS = {
    "Programs stand on libraries and never import each other": ("edge_actor", "import cloud_learner.config"),
    "No training stack on a board, a monitor or a manager": ("fleet_monitor", "import torch"),
    "Only a manager serves HTTP": ("edge_actor", "import starlette"),
    "Only fleet_protocol.mqtt speaks to paho": ("edge_actor", "import paho.mqtt.client"),
    "Cryptography is fleet_protocol's, and the CA's": ("edge_actor", "import cryptography.x509"),
    "Libraries and the learner know no environment": ("cloud_learner", "import gymnasium"),
    "The mathematics knows no network": ("corrector", "import msgpack"),
}


def test_no_file_is_longer_than_300_lines():
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            assert len(file.read_text(encoding="utf-8").splitlines()) <= 300, file


@pytest.fixture(scope="module")
def copied_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


def test_all_import_contracts_are_kept(copied_tree: Path):
    assert "0 broken" in _lint_imports(copied_tree)


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_a_planted_violation_breaks_its_contract(contract: str, copied_tree: Path):
    package, line = VIOLATIONS[contract]
    planted = copied_tree / package / "planted.py"
    planted.write_text(f'"""A violation."""\n\n{line}\n', encoding="utf-8")
    try:
        assert f"{contract} BROKEN" in _lint_imports(copied_tree)
    finally:
        planted.unlink()


@pytest.mark.parametrize("module", ["edge_actor.__main__", "edge_actor.worker", "fleet_monitor.__main__"])
def test_a_board_and_a_monitor_load_no_torch_typer_or_rich(module: str):
    code = f"import {module}, sys; print([m for m in ('torch', 'typer', 'rich', 'tensorflow') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout.strip() == "[]"


def test_the_supervisor_loads_neither_gymnasium_nor_a_runtime_nor_cryptography():
    unwanted = ("gymnasium", "ai_edge_litert", "cryptography")
    code = f"import edge_actor.__main__, sys; print([m for m in {unwanted} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout.strip() == "[]"


def _lint_imports(tree: Path) -> str:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tree).stdout
