"""Docs cannot rot: every topic, message, field, setting and exit code stands in docs/."""

import inspect
import re
from pathlib import Path

import msgspec
import pytest

from cloud_learner.config import LearnerSettings
from edge_actor.config import BoardSettings
from fleet_manager.config import ManagerSettings
from fleet_monitor.__main__ import MonitorSettings
from fleet_protocol import commands, keyring, messages, spaces
from fleet_protocol.exit_codes import EXPLANATIONS, ExitCode
from fleet_protocol.settings import describe_settings

ROOT = Path(__file__).parents[2]
PROTOCOL = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
MESSAGES = [
    message
    for message in [value for module in (messages, commands, spaces, keyring) for value in vars(module).values()]
    if inspect.isclass(message) and issubclass(message, messages.Message) and message is not messages.Message
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_every_message_and_field_is_documented(message: type[msgspec.Struct]):
    paragraph = next(line for line in PROTOCOL.splitlines() if line.startswith(f"**{message.__name__}**"))
    for field in msgspec.structs.fields(message):
        assert f"`{field.name}`" in paragraph


@pytest.mark.parametrize(
    "kind", ["trajectory", "telemetry", "log", "reply", "status", "ack", "command", "candidate", "desired"]
)
def test_every_topic_is_documented(kind: str):
    assert f"/{kind}`" in PROTOCOL


@pytest.mark.parametrize(
    "settings", [LearnerSettings, BoardSettings, MonitorSettings, ManagerSettings], ids=lambda s: s.__name__
)
def test_every_setting_is_documented_with_the_sentence_of_its_source(settings: type[msgspec.Struct]):
    descriptions = describe_settings(settings)
    for field in msgspec.structs.fields(settings):
        row = next(line for line in OPERATIONS.splitlines() if line.startswith(f"| `{field.name}` "))
        assert descriptions[field.name]
        assert descriptions[field.name] in OPERATIONS, row


@pytest.mark.parametrize("code", ExitCode)
def test_every_exit_code_is_explained(code: ExitCode):
    assert f"| {int(code)} | {code.name} | {EXPLANATIONS[code]} |" in OPERATIONS


def test_every_rule_of_the_protocol_names_tests_that_exist():
    rules = re.findall(r"^- \*\*([A-Z]\d+)\*\*", PROTOCOL, re.MULTILINE)
    table = dict(re.findall(r"^\| ([A-Z]\d+) \| (`test_.*`) \|$", PROTOCOL, re.MULTILINE))
    assert sorted(rules) == sorted(table)
    assert len(rules) == len(set(rules))
    sources = [file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py")]
    defined = {name for source in sources for name in re.findall(r"^(?:async )?def (test_\w+)\(", source, re.MULTILINE)}
    named = {name for row in table.values() for name in re.findall(r"`(\w+)`", row)}
    assert named <= defined, named - defined


def test_no_document_links_to_a_file_that_is_not_there():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in _links(document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def _links(text: str) -> list[str]:
    targets = [piece.split(")")[0] for piece in text.split("](")[1:]]
    return [target.partition("#")[0] for target in targets if not target.startswith("http")]
