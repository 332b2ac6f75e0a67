"""The learner's unit: systemd understands it, what it runs exists, it gives up only where a restart cures nothing."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from cloud_learner.__main__ import _parser
from fleet_protocol.exit_codes import ExitCode

UNIT = Path(__file__).parents[3] / "firmware_scripts/systemd/edgerl-learner.service"
CURED_BY_A_RESTART = {
    ExitCode.CERTIFICATE_REFUSED,
    ExitCode.BUG,
    ExitCode.NO_BROKER,
    ExitCode.PORT_IN_USE,
    ExitCode.PROCESS_DIED,
}
OF_OTHER_PROGRAMS = {
    *(ExitCode.ENVIRONMENT_FAILED, ExitCode.ENROLMENT_REFUSED, ExitCode.NO_DEPOT, ExitCode.COMMAND_FAILED),
    *(ExitCode.AUDIT_BROKEN, ExitCode.SCENARIO_FAILED),
}
GOOD_ENDS = {ExitCode.OK, ExitCode.INTERRUPTED}


@pytest.fixture
def systemd_analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("systemd-analyze is missing: apt install systemd")
    return found


@pytest.fixture
def copied_unit(tmp_path: Path) -> Path:
    """The unit, with a program that exists: systemd looks for it."""
    copied = tmp_path / UNIT.name
    copied.write_text(UNIT.read_text(encoding="ascii").replace("/opt/edgerl/bin/edgerl", "/bin/true"), encoding="ascii")
    return copied


def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
    parser.read_string(UNIT.read_text(encoding="ascii"))
    return parser["Service"]


def test_systemd_understands_every_line(systemd_analyze: str, copied_unit: Path):
    command = [systemd_analyze, "verify", "--man=no", copied_unit]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    # An unknown key is a line on stderr, and no exit code.
    assert (verified.returncode, verified.stderr) == (0, "")


def test_systemd_complains_of_a_misspelt_line(systemd_analyze: str, copied_unit: Path):
    copied_unit.write_text(copied_unit.read_text(encoding="ascii").replace("UMask=", "UMaks="), encoding="ascii")
    command = [systemd_analyze, "verify", "--man=no", copied_unit]
    assert "UMaks" in subprocess.run(command, capture_output=True, text=True, check=False).stderr


def test_its_exposure_is_low(systemd_analyze: str, copied_unit: Path):
    command = [systemd_analyze, "security", "--offline=true", "--threshold=25", "--no-pager", copied_unit]
    judged = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (judged.returncode, judged.stderr) == (0, ""), judged.stdout.splitlines()[-1:]


def test_its_command_and_flags_exist():
    program, command, *flags = shlex.split(service()["ExecStart"])
    assert (Path(program).name, command) == ("edgerl", "learn")
    parsed = _parser().parse_args(flags)
    assert (parsed.config, parsed.state) == (Path("/etc/edgerl/edgerl.toml"), "/var/lib/edgerl/state")


def test_it_stays_down_exactly_where_a_restart_cures_nothing():
    prevented = {ExitCode(int(code)) for code in service()["RestartPreventExitStatus"].split()}
    assert prevented == set(ExitCode) - CURED_BY_A_RESTART - OF_OTHER_PROGRAMS - GOOD_ENDS


def test_the_comment_names_the_exit_codes():
    text = UNIT.read_text(encoding="ascii")
    comment = re.search(r"# What a restart cannot cure:(.*?)\nRestartPrevent", text, re.DOTALL)
    prevented = {ExitCode(int(code)).name for code in service()["RestartPreventExitStatus"].split()}
    assert comment is not None
    assert set(re.findall(r"[A-Z]+_?[A-Z_]{2,}", comment[1])) == prevented


def test_sigterm_is_a_good_end_and_has_time_to_save():
    assert service()["KillSignal"] == "SIGTERM"
    assert ExitCode(int(service()["SuccessExitStatus"])) is ExitCode.INTERRUPTED
    assert int(service()["TimeoutStopSec"]) >= 30


def test_what_cuda_needs_is_not_taken_away():
    taken = {"PrivateDevices", "DevicePolicy", "MemoryDenyWriteExecute"} & set(service())
    assert taken == set()
