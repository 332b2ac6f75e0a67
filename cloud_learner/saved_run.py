"""What a checkpoint says of a run, read whole or not at all."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import convert, to_builtins

from cloud_learner.board_book import Spaces
from cloud_learner.checkpoints import StateFolder
from cloud_learner.config import Architecture
from cloud_learner.delivery_ledger import DeliveryLedger
from fleet_protocol.messages import RunSpec
from fleet_protocol.spaces import BoxSpec, SpaceSpec

SCHEMA: Final = 1
"""Of checkpoints; the first ones did not say it."""
_TOTALS: Final = ("env_steps", "episodes", "updates")


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedRun:
    """A run to go on with.

    Attributes:
        run: What boards are told.
        version: The newest published policy version.
        spaces: Of the run; None where no board had told them yet.
        algorithm: What `Algorithm.state_dict` gave.
        ledger: Marks of finished windows.
        progress: Totals of `Progress.state`.
        architecture: What the network is made of; None where an earlier EdgeRL has not said it.
    """

    run: RunSpec
    version: int
    spaces: Spaces | None
    algorithm: dict[str, Any]
    ledger: DeliveryLedger
    progress: dict[str, Any]
    architecture: Architecture | None = None

    def save(self, state: StateFolder) -> None:
        """Replace the checkpoint.

        Raises:
            StateUnwritable: The disk does not take it.
        """
        state.save(
            {
                "schema": SCHEMA,
                "run": to_builtins(self.run),
                "version": self.version,
                "spaces": [to_builtins(space) for space in self.spaces] if self.spaces else None,
                "algorithm": self.algorithm,
                "ledger": self.ledger.state(),
                "progress": self.progress,
                "architecture": to_builtins(self.architecture),
            }
        )

    @classmethod
    def load(cls, state: StateFolder) -> "SavedRun | None":
        """The last checkpoint, or None.

        Raises:
            ProgramError: The file is there, and holds no run.
        """
        saved = state.load()
        if saved is None:
            return None
        schema = saved.get("schema", SCHEMA) if isinstance(saved, dict) else SCHEMA
        if isinstance(schema, int) and schema > SCHEMA:
            raise state.newer(schema, known=SCHEMA)
        try:
            return cls(
                run=convert(saved["run"], RunSpec),
                version=convert(saved["version"], int),
                spaces=_spaces(saved["spaces"]),
                algorithm=convert(saved["algorithm"], dict[str, Any]),
                ledger=DeliveryLedger.from_state(saved["ledger"]),
                progress={name: convert(saved["progress"][name], int) for name in _TOTALS},
                architecture=convert(saved.get("architecture"), Architecture | None),
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, msgspec.MsgspecError) as error:
            raise state.unfit("holds no run of this version of EdgeRL", error) from error


def _spaces(saved: list[Any] | None) -> Spaces | None:
    if saved is None:
        return None
    observation, action = saved
    action_spec: SpaceSpec = convert(action, SpaceSpec)  # type: ignore[arg-type]
    return convert(observation, BoxSpec), action_spec
