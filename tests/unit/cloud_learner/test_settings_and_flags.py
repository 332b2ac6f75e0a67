"""Every setting of board, learner and monitor has a sentence, a flag and a variable; nonsense is refused by name."""

import argparse
from typing import Any

import msgspec
import pytest

import cloud_learner.__main__ as learner
import edge_actor.__main__ as board
import fleet_monitor.__main__ as monitor
from cloud_learner.config import LearnerSettings
from edge_actor.config import BoardSettings, default_board_id
from fleet_monitor.__main__ import MonitorSettings
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.settings import describe_settings, load_settings
from fleet_protocol.topics import checked_name

PROGRAMS = {
    "board": (BoardSettings, board._parser),
    "learner": (LearnerSettings, learner._parser),
    "monitor": (MonitorSettings, monitor._parser),
}
FIELDS = [
    pytest.param(table, field, id=f"{table}.{field.name}")
    for table, (settings_type, _) in PROGRAMS.items()
    for field in msgspec.structs.fields(settings_type)
]


def flag_of(parser: argparse.ArgumentParser, name: str) -> str:
    (action,) = [action for action in parser._actions if action.dest == name]
    assert action.help
    return action.option_strings[-1]


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


@pytest.mark.parametrize(("table", "field"), FIELDS)
def test_every_setting_has_a_sentence_and_a_flag(table: str, field: msgspec.structs.FieldInfo):
    settings_type, make_parser = PROGRAMS[table]
    sentence = describe_settings(settings_type)[field.name]
    assert sentence.endswith((".", "..."))
    assert flag_of(make_parser(), field.name).startswith("--")


@pytest.mark.parametrize(("table", "field"), FIELDS)
def test_every_setting_can_be_given_as_a_flag_and_as_a_variable(table: str, field: msgspec.structs.FieldInfo):
    settings_type, make_parser = PROGRAMS[table]
    example, expected = EXAMPLES.get(field.name) or example_of(default_of(field))
    said = [flag_of(make_parser(), field.name), *([] if field.type is bool else [example])]
    parsed = vars(make_parser().parse_args(said))
    flags = {name: parsed[name] for name in (f.name for f in msgspec.structs.fields(settings_type))}
    assert getattr(load_settings(settings_type, table, flags=flags, environ={}), field.name) == expected
    listed = f'["{example}"]' if field.name == "allowed_environments" else example
    environ = {f"EDGERL_{table.upper()}_{field.name.upper()}": listed}
    assert getattr(load_settings(settings_type, table, environ=environ), field.name) == expected


EXAMPLES: dict[str, tuple[str, Any]] = {
    "allowed_environments": ("my_lab", ["my_lab"]),
    "env_kwargs": ('{goal = "north", n = 3}', {"goal": "north", "n": 3}),
    "hidden_sizes": ("[32, 16]", [32, 16]),
    "target_return": ("475", 475.0),
    "gamma": ("0.5", 0.5),
    "network": ("impala-resnet", "impala-resnet"),
    "memory": ("lstm", "lstm"),
    "safe_action": ("[0.5, -1.0]", [0.5, -1.0]),
    "lambda_": ("0.5", 0.5),
}


def example_of(default: Any) -> tuple[str, Any]:
    match default:
        case False:
            return "true", True
        case int() | float():
            return str(default + 1), default + 1
        case _:
            return "another", "another"


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_sizes": []},
        {"hidden_sizes": [64, 0]},
        {"max_publish_bytes_per_s": 0},
        {"unroll_length": 0},
        {"unroll_length": 65_537},
        {"copies": 4097},
        {"gamma": 1.5},
        {"passes": 0},
        {"learning_rate": "fast"},
        {"network": "transformer"},
        {"memory": "elephant"},
        {"frame_stack": 17},
        {"control_hz": -1},
    ],
    ids=str,
)
def test_a_learner_that_could_not_run_is_refused_by_the_settings_name(values: dict[str, Any]):
    with pytest.raises(ProgramError, match=next(iter(values))) as refusal:
        load_settings(LearnerSettings, "learner", flags=values, environ={})
    assert refusal.value.exit_code == ExitCode.CONFIG


def test_a_misspelt_variable_is_answered_with_the_nearest():
    with pytest.raises(ProgramError, match="did you mean 'workers'"):
        load_settings(BoardSettings, "board", environ={"EDGERL_BOARD_WORKRES": "2"})


def test_a_board_without_an_id_takes_one_that_a_topic_can_hold():
    assert checked_name(default_board_id(), what="board") == default_board_id()
