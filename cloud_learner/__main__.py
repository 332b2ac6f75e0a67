"""`python -m cloud_learner`: lead a run. `edgerl learn` is the same with a friendlier face."""

import argparse
import logging
import signal
import sys
import tomllib
from pathlib import Path

import msgspec

from cloud_learner.config import LearnerSettings
from cloud_learner.run_start import learn
from fleet_protocol.exit_codes import ProgramError
from fleet_protocol.settings import describe_settings, load_settings


def main(arguments: list[str] | None = None) -> int:
    """Learn until the target, the limit, or Ctrl-C; returns the exit code."""
    flags = vars(_parser().parse_args(arguments))
    logging.basicConfig(level=flags.pop("log_level").upper(), format="%(levelname)s %(message)s")
    config: Path | None = flags.pop("config")
    try:
        settings = load_settings(LearnerSettings, "learner", file=config, flags=flags)
        return run_learner(settings)
    except ProgramError as error:
        print(f"edgerl learn: {error}", file=sys.stderr)  # noqa: T201 - the one line for a person
        return error.exit_code


def run_learner(settings: LearnerSettings) -> int:
    """Learn, ending early and saving on SIGINT or SIGTERM."""
    stop_asked: list[int] = []
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, _frame: stop_asked.append(number))
    result = learn(settings, should_stop=lambda: bool(stop_asked))
    mean = result.report["return_mean_100"]
    print(  # noqa: T201 - the last word to a person
        f"{result.exit_code.name.lower().replace('_', ' ')}: mean return {'-' if mean is None else f'{mean:.1f}'} over "
        f"the last 100 episodes, after {result.report['env_steps']:,} steps; state in {settings.state}"
        + (f", report in {settings.report}" if settings.report else "")
    )
    return result.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgerl learn",
        description="Lead a run: tell the boards what to do, learn from what they send, publish policies. "
        "A run found in the state folder is resumed; Ctrl-C saves.",
    )
    parser.add_argument("-c", "--config", type=Path, help="TOML file to read the [learner] table from")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    descriptions = describe_settings(LearnerSettings)
    for field in msgspec.structs.fields(LearnerSettings):
        flag = "--" + field.name.rstrip("_").replace("_", "-")
        if field.type is bool:
            parser.add_argument(
                flag, dest=field.name, action="store_const", const=True, help=_help(field, descriptions[field.name])
            )
            continue
        # Values are converted, and refused with their name, by the settings' own types.
        parser.add_argument(
            flag, dest=field.name, type=_plain_value, metavar="VALUE", help=_help(field, descriptions[field.name])
        )
    return parser


def _plain_value(text: str) -> object:
    """Lists and tables are written as in TOML, like those in variables; anything else is taken as it stands."""
    if text[:1] not in ("[", "{"):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _help(field: msgspec.structs.FieldInfo, description: str) -> str:
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return f"{description} Default: {default!r}".replace("%", "%%")


if __name__ == "__main__":
    sys.exit(main())
