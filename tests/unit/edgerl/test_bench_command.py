"""`edgerl bench`: what cannot be sent is refused before anybody is asked."""

import subprocess
import sys
from pathlib import Path

import pytest

from fleet_protocol.commands import LARGEST_MODEL
from fleet_protocol.exit_codes import ExitCode


@pytest.mark.parametrize(("size", "sentence"), [(None, "cannot read"), (LARGEST_MODEL + 1, "boards take at most")])
def test_a_file_that_cannot_be_sent_is_named(size: int | None, sentence: str, tmp_path: Path):
    policy = tmp_path / "p.tflite"
    if size is not None:
        policy.write_bytes(bytes(size))
    command = [sys.executable, "-c", "from edgerl.cli import main; main()", "bench", str(policy), "--on", "b1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == ExitCode.USAGE
    said = " ".join(done.stderr.split())
    assert sentence in said
    assert "p.tflite" in said
