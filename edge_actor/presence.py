"""Whether this board is known to be there: its birth, late wills of its own, and others who use its name."""

from typing import Final

from edge_actor.board_health import hardware_name
from edge_actor.board_link import BoardLink
from edge_actor.diary import Diary
from edge_actor.workforce import Workforce
from fleet_protocol.clock import kernel_boot_id
from fleet_protocol.messages import Birth, Death, RunSpec, Status

_SOFTWARE: Final = "edgerl 0.1.0"
_MANY: Final = 2


class Presence:
    """What is retained on the board's status topic.

    Args:
        board_id: This board.
        boot_id: This start of the agent.
        workers: Worker processes.
        link: Sends births.
        diary: Counts `board_id_taken`.

    Attributes:
        session_id: Of the present connection, or of the one before; empty before the first.
    """

    def __init__(self, board_id: str, boot_id: str, *, workers: int, link: BoardLink, diary: Diary) -> None:
        self._board_id = board_id
        self._boot_id = boot_id
        self._workers = workers
        self._hardware = hardware_name()
        self._link = link
        self._diary = diary
        self._announced: Birth | None = None
        self._was_announced = False
        self._strangers: set[str] = set()
        self.session_id = ""

    def begin_session(self, session_id: str) -> None:
        """A connection has begun, and nothing was announced in it."""
        self.session_id = session_id
        self._announced = None

    def announce(self, run: RunSpec | None, workforce: Workforce) -> None:
        """Publish a birth, unless the last one still says it all."""
        birth = self._birth(run, workforce)
        if self._link.is_connected and birth != self._announced:
            self._link.send_birth(birth)
            self._announced = birth
            self._was_announced = True

    def hear(self, status: Status) -> None:
        """Hear what is said of this board, by itself or by others."""
        if isinstance(status, Death) and status.session_id != self.session_id:
            self._announced = None  # a late will of an old session: say that we live
        if status.boot_id != self._boot_id and self._was_announced:
            if len(self._strangers) < _MANY:
                self._strangers.add(status.session_id)
            # Our birth was retained over whatever stood there, so a later one is of somebody who lives. An agent that
            # was here before us leaves one late will; two sessions of it are one too many.
            if isinstance(status, Birth) or len(self._strangers) == _MANY:
                self._diary.count(
                    "board_id_taken",
                    f"another live agent calls itself {self._board_id}: give each board its own --board",
                )

    def _birth(self, run: RunSpec | None, workforce: Workforce) -> Birth:
        ready = workforce.ready
        return Birth(
            board_id=self._board_id,
            boot_id=self._boot_id,
            session_id=self.session_id or "none",
            software=_SOFTWARE,
            hardware=self._hardware,
            runtime=ready.runtime if ready else "",
            kernel_boot_id=kernel_boot_id(),
            run_id=run.run_id if run and (ready or workforce.problem) else "",
            observation_space=ready.observation_space if ready else None,
            action_space=ready.action_space if ready else None,
            workers=self._workers,
            copies=workforce.copies,
            problem=workforce.problem,
        )
