"""`edgerl command`: have a board pause, go on, or show what its policy can do."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from fleet_protocol.commands import Command, CommandReply, Evaluate, EvaluationResult, Pause, Resume
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import Birth

if TYPE_CHECKING:
    from fleet_manager.commands import BoardCommander

Action = Literal["pause", "resume", "evaluate"]

_WAIT_S: dict[Action, float] = {"pause": 30.0, "resume": 30.0, "evaluate": 620.0}


def command(
    board: Annotated[str, typer.Argument(help="The board's id.")],
    action: Annotated[Action, typer.Argument(help="What it shall do.")],
    episodes: Annotated[int, typer.Option(min=1, max=10_000, help="With evaluate: greedy episodes.")] = 10,
    policy_version: Annotated[
        int, typer.Option(min=0, help="With evaluate: this version, or none; 0 = the one that it has.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="With evaluate: seed of the episodes.")] = 0,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML file with a [manager] table.")] = None,
    broker: Annotated[str | None, typer.Option(help="MQTT broker.", show_default="127.0.0.1:1883")] = None,
    fleet: Annotated[str | None, typer.Option(help="Name of the fleet.", show_default="demo")] = None,
    audit: Annotated[str | None, typer.Option(help="SQLite file to note the command in.")] = None,
    wait: Annotated[
        float | None, typer.Option(min=1.0, help="Seconds to wait for the answer.", show_default="30; evaluate: 620")
    ] = None,
    output: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print.")] = "table",
) -> None:
    """Command a board, and wait until it has done it. The command is noted in the audit first.

    Example: `edgerl command kitchen-1 evaluate --episodes 20 -c fleet/manager/edgerl.toml`
    """
    with open_commander(board, kind="command", config=config, broker=broker, fleet=fleet, audit=audit) as commander:
        birth = commander.find()
        deed = _deed(action, birth, episodes=episodes, policy_version=policy_version, seed=seed)
        reply = commander.send(deed, run_id=birth.run_id, wait_s=wait or _WAIT_S[action])
    _print(reply, output)
    if reply.problem is not None:
        raise ProgramError(ExitCode.COMMAND_FAILED, f"board {board!r}: {reply.problem.sentence}")


def open_commander(
    board: str, *, kind: str, config: Path | None, broker: str | None, fleet: str | None, audit: str | None
) -> "BoardCommander":
    """What commands a board, by the manager's settings; `kind` is what its key must be trusted with.

    Raises:
        ProgramError: A setting is wrong, or a key is missing.
    """
    from fleet_manager.commands import BoardCommander  # noqa: PLC0415
    from fleet_manager.config import ManagerSettings  # noqa: PLC0415
    from fleet_protocol.address import broker_address  # noqa: PLC0415
    from fleet_protocol.audit import AuditLog  # noqa: PLC0415
    from fleet_protocol.settings import load_settings  # noqa: PLC0415
    from fleet_protocol.signing_keys import SigningKeys  # noqa: PLC0415

    flags = {"broker": broker, "fleet": fleet, "audit": audit}
    settings = load_settings(ManagerSettings, "manager", file=config, flags=flags)
    _check_names(settings.fleet, board)
    keys = SigningKeys.of(settings, kinds=[kind], role="manager")
    return BoardCommander(
        broker_address(settings),
        fleet=settings.fleet,
        board_id=board,
        audit=AuditLog(Path(settings.audit)),
        signer=keys.signer if keys else None,
    )


def _deed(action: Action, birth: Birth, *, episodes: int, policy_version: int, seed: int) -> Command:
    if action == "resume":
        return Resume()
    if action == "evaluate":
        return Evaluate(policy_version=policy_version, episodes=episodes, seed=seed)
    if not birth.run_id:
        raise ProgramError(ExitCode.COMMAND_FAILED, f"board {birth.board_id!r} is in no run: there is nothing to pause")
    return Pause(run_id=birth.run_id)


def _check_names(fleet: str, board: str) -> None:
    from fleet_protocol.topics import BadName, checked_name  # noqa: PLC0415

    try:
        checked_name(fleet, what="fleet")
        checked_name(board, what="board")
    except BadName as error:
        raise ProgramError(ExitCode.USAGE, str(error)) from error


def _print(reply: CommandReply, output: str) -> None:
    if output == "json":
        print(json.dumps(msgspec.to_builtins(reply), indent=2))  # noqa: T201
        return
    if isinstance(reply.result, EvaluationResult):
        returns = reply.result.returns
        mean = sum(returns) / len(returns) if returns else float("nan")
        print(  # noqa: T201
            f"{reply.board_id}: policy {reply.result.policy_version}, {len(returns)} greedy episodes, "
            f"mean return {mean:.1f}, least {min(returns, default=float('nan')):.1f}"
        )
    elif reply.problem is None:
        print(f"{reply.board_id}: done")  # noqa: T201
