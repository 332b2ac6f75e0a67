"""The topic tree: every message of a fleet lives under `edgerl/<protocol>/<fleet>/`.

The protocol version is the second level, so that two versions never mix by accident and a newcomer can see the
other one's heartbeat and say so.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

PROTOCOL_VERSION = 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_PROTOCOL = re.compile(r"[1-9][0-9]{0,3}")

UpKind = Literal["trajectory", "telemetry", "log", "reply"]
DownKind = Literal["ack", "command", "candidate", "desired"]


class BadName(ValueError):
    """A fleet, board or group name that cannot stand in a topic."""


def checked_name(name: str, *, what: str) -> str:
    """Return `name` if it can stand as one topic level.

    Raises:
        BadName: It is empty, too long, or has a character outside letters, digits, `_`, `-` and `.`.
    """
    if not _NAME.fullmatch(name):
        raise BadName(
            f"{what} {name[:80]!r}: expected 1 to 63 letters, digits, '_', '-' or '.', starting with a letter or digit"
        )
    return name


@dataclass(frozen=True, slots=True)
class TopicAddress:
    """A topic, taken apart.

    Attributes:
        kind: `run`, `policy`, `learner`, `status`, or the last level of a board's `up/` or `down/` topic.
        subject: The board id, or the group of a `policy` topic; empty for `run` and `learner`.
        protocol: The protocol version that it names.
    """

    kind: str
    subject: str = ""
    protocol: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class FleetTopics:
    """The topics of one fleet.

    Raises:
        BadName: The fleet's name cannot stand in a topic.
    """

    fleet: str

    def __post_init__(self) -> None:
        checked_name(self.fleet, what="fleet")

    @property
    def _root(self) -> str:
        return f"edgerl/{PROTOCOL_VERSION}/{self.fleet}"

    @property
    def run(self) -> str:
        """Retained RunSpec, learner to boards."""
        return f"{self._root}/run"

    @property
    def learner(self) -> str:
        """Retained LearnerReport, learner to all."""
        return f"{self._root}/learner"

    @property
    def any_learner(self) -> str:
        """Filter: heartbeats of learners of every protocol version."""
        return f"edgerl/+/{self.fleet}/learner"

    def policy(self, group: str) -> str:
        """Retained PolicyUpdate of a group; `#` gives the filter for all groups."""
        return f"{self._root}/policy/{group}"

    def status(self, board_id: str) -> str:
        """Retained Birth or Death of a board; `+` gives the filter for all boards."""
        return f"{self._root}/board/{board_id}/status"

    def up(self, board_id: str, kind: UpKind | Literal["+"]) -> str:
        """What a board sends; `+` for either argument gives a filter."""
        return f"{self._root}/board/{board_id}/up/{kind}"

    def down(self, board_id: str, kind: DownKind | Literal["+"]) -> str:
        """What a board is sent; `+` for either argument gives a filter."""
        return f"{self._root}/board/{board_id}/down/{kind}"

    def parse(self, topic: str) -> TopicAddress | None:
        """Take a topic of this fleet apart; None for any other topic.

        amqtt pushes retained messages that nobody asked for, so a stray topic is normal, and no error.
        """
        match topic.split("/"):
            case ["edgerl", protocol, self.fleet, *rest] if _PROTOCOL.fullmatch(protocol):
                return _parse_levels(rest, int(protocol))
            case _:
                return None


def _parse_levels(levels: list[str], protocol: int) -> TopicAddress | None:
    match levels:
        case [("run" | "learner") as kind]:
            return TopicAddress(kind, protocol=protocol)
        case ["policy", group] if _NAME.fullmatch(group):
            return TopicAddress("policy", group, protocol)
        case ["board", board_id, "status"] if _NAME.fullmatch(board_id):
            return TopicAddress("status", board_id, protocol)
        case ["board", board_id, "up", kind] if _NAME.fullmatch(board_id) and kind in get_args(UpKind):
            return TopicAddress(kind, board_id, protocol)
        case ["board", board_id, "down", kind] if _NAME.fullmatch(board_id) and kind in get_args(DownKind):
            return TopicAddress(kind, board_id, protocol)
        case _:
            return None
