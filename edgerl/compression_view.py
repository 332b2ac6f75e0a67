"""What `edgerl compress` and `edgerl convert` leave behind: a file, a report, and a table on the terminal."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edgerl.compression import Compression
from fleet_protocol.exit_codes import ExitCode, ProgramError


def leave(made: Compression, *, out: Path, report: Path | None, env_id: str) -> None:
    """Write the file and the report, and print the table.

    Raises:
        ProgramError: A file cannot be written.
    """
    _write(out, made.policy.model)
    if report is not None:
        _write(report, json.dumps({"environment": env_id, **made.as_dict()}, indent=2).encode())
    _print(out, made)


def _print(out: Path, made: Compression) -> None:
    print(f"{out}: {made.policy.recipe}\n{made.fidelity.to_table()}")  # noqa: T201
    if made.returns is not None:
        pairs = made.returns
        print(  # noqa: T201
            f"{'return':<24}{pairs.mean_compressed:.1f}, float {pairs.mean_float:.1f}: {pairs.difference:+.1f} "
            f"({pairs.low:+.1f} to {pairs.high:+.1f}) over {pairs.episodes} pairs of episodes"
        )
    if made.sensitivities:
        Console().print(_layers(made))


def _layers(made: Compression) -> Table:
    table = Table("layer", "KL alone", "agreement alone", "saves, bytes", "kept for", title="rounded one at a time")
    paid = {each.layer: f"{each.bytes_paid:+} bytes, {each.us_paid:+.1f} us" for each in made.kept}
    for each in made.sensitivities:
        figures = (f"{each.kl_mean:.2g}", f"{each.agreement:.2%}", str(each.bytes_saved))
        table.add_row(each.layer, *figures, paid.get(each.layer, ""))
    return table


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ProgramError(ExitCode.STATE_UNUSABLE, f"cannot write {path}: {error.strerror}") from error
