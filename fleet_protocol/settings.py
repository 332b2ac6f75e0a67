"""One way to configure a program: defaults < TOML file < EDGERL_* < flags. Unknown keys are errors."""

import argparse
import ast
import difflib
import inspect
import itertools
import os
import textwrap
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fleet_protocol.exit_codes import ExitCode, ProgramError

SettingsT = TypeVar("SettingsT", bound=msgspec.Struct)

_TABLES = ("board", "learner", "broker", "monitor", "manager")
_FILES_BESIDE = ("ca", "cert", "key", "root_key", "signing_key", "keyring", "audit")
"""Paths that a TOML file names are relative to it, so that a folder of credentials can be copied as a whole."""


def load_settings(
    settings_type: type[SettingsT],
    table: str,
    *,
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> SettingsT:
    """Put a program's settings together.

    Args:
        settings_type: A frozen struct with a default for every field.
        table: Its table in the TOML file; `EDGERL_<TABLE>_<FIELD>` is its variable.
        file: The TOML file, if any.
        flags: Values given on the command line; None means not given.
        environ: The environment variables; by default this process's.

    Raises:
        ProgramError: A file that cannot be read, an unknown key, or a value of the wrong kind. Says which.
    """
    fields = {field.name for field in msgspec.structs.fields(settings_type)}
    values: dict[str, Any] = {}
    values |= _from_file(file, table, fields) if file else {}
    values |= _from_environment(os.environ if environ is None else environ, table, fields)
    values |= {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        return msgspec.convert(values, settings_type, strict=False)
    except msgspec.ValidationError as error:
        raise ProgramError(ExitCode.CONFIG, f"[{table}] {error}") from error


def add_tls_flags(parser: argparse.ArgumentParser) -> None:
    """Give a program the flags by which it speaks to a broker over TLS, or says that it does without."""
    parser.add_argument("--ca", metavar="FILE", help="the fleet's CA; with --cert and --key: TLS")
    parser.add_argument("--cert", metavar="FILE", help="this program's certificate")
    parser.add_argument("--key", metavar="FILE", help="its private key")
    parser.add_argument(
        "--insecure",
        action="store_const",
        const=True,
        help="speak to a broker on another machine in plain text: anybody between can read and change it",
    )


def describe_settings(settings_type: type[msgspec.Struct]) -> dict[str, str]:
    """The sentence under each field of a settings struct, by name: help, docs and code say the same."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(settings_type)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    return {
        field.target.id: sentence.value.value
        for field, sentence in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(sentence, ast.Expr)
        and isinstance(sentence.value, ast.Constant)
        and isinstance(sentence.value.value, str)
    }


def _from_file(file: Path, table: str, fields: set[str]) -> dict[str, Any]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProgramError(ExitCode.CONFIG, f"cannot read {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProgramError(ExitCode.CONFIG, f"{file} is not TOML: {error}") from error
    for name in tables:
        _check_known(name, set(_TABLES), where=f"{file}: table")
    values: dict[str, Any] = tables.get(table, {})
    if not isinstance(values, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ProgramError(ExitCode.CONFIG, f"{file}: {table} is no table; write [{table}] and its keys below")
    for name in values:
        _check_known(name, fields, where=f"{file}: [{table}] key")
    beside = {name: str(file.parent / path) for name in _FILES_BESIDE if (path := values.get(name))}
    return values | beside


def _from_environment(environ: Mapping[str, str], table: str, fields: set[str]) -> dict[str, Any]:
    prefix = f"EDGERL_{table.upper()}_"
    values: dict[str, Any] = {}
    for name, text in environ.items():
        _check_not_misspelt(name)
        if name.startswith(prefix):
            field = name.removeprefix(prefix).lower()
            _check_known(field, fields, where="environment variable", shown=name)
            values[field] = _parsed(text)
    return values


def _check_not_misspelt(variable: str) -> None:
    """Other programs may have EDGERL_ variables of their own, but one that almost names a table means that table."""
    first, _, rest = variable.partition("_")
    word = rest.partition("_")[0].lower()
    if first == "EDGERL" and word not in _TABLES and difflib.get_close_matches(word, _TABLES, n=1, cutoff=0.75):
        _check_known(word, set(_TABLES), where="the table of environment variable", shown=variable)


def _parsed(text: str) -> object:
    # Lists and tables are written as in TOML; anything else is taken as it stands and converted by its field's type.
    if text[:1] in ("[", "{"):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    return text


def _check_known(name: str, known: set[str], *, where: str, shown: str = "") -> None:
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
    raise ProgramError(ExitCode.CONFIG, f"{where} {shown or name!r} is unknown; {hint}")
