"""The board's agent. Read this first: `Supervisor.run` is its whole day.

One thread owns everything here. The network thread leaves events in an inbox, workers write into their pipes, and the
loop waits on all of them at once, so nothing needs a lock and nothing is done twice. The control loops run in the
workers and never wait for the network, except that a run may bound its unacked windows.
"""

import logging
import random
import time
import uuid
from multiprocessing.connection import wait
from pathlib import Path
from typing import Final

from edge_actor.admission import Admission
from edge_actor.board_files import BoardFiles
from edge_actor.board_link import Arrived, BoardLink, Connected, Inbox, require_our_protocol
from edge_actor.board_memory import BoardMemory
from edge_actor.commander import Commander
from edge_actor.config import BoardSettings
from edge_actor.crash_watch import BOXED_S, CrashWatch
from edge_actor.diary import Diary
from edge_actor.frame_gate import FrameGate
from edge_actor.outbox import Outbox
from edge_actor.outbox_entry import OutboxEntry
from edge_actor.outbox_keeper import OutboxKeeper
from edge_actor.policy_shelf import PolicyShelf
from edge_actor.presence import Presence
from edge_actor.quarantine import Quarantine
from edge_actor.worker_messages import WindowDone
from edge_actor.workforce import Workforce
from fleet_protocol.address import broker_address
from fleet_protocol.codec import BadMessage, decode
from fleet_protocol.commands import Bench, Command, CommandReply
from fleet_protocol.messages import Ack, FrameHeader, LearnerReport, RunSpec, Status, TrajectoryMessage
from fleet_protocol.signing import ALL_BOARDS, FrameRefused

_log = logging.getLogger(__name__)

_TICK_S: Final = 0.25


class Supervisor:
    """One start of the board's agent.

    Args:
        settings: What the board's owner decided.
        board_id: This board.

    Raises:
        ProgramError: The broker's address is not allowed, a file for TLS or a key is not usable, or another agent uses
            the board's state folder.
    """

    def __init__(self, settings: BoardSettings, *, board_id: str) -> None:
        address = broker_address(settings)
        self._settings = settings
        self._board_id = board_id
        self._boot_id = uuid.uuid4().hex[:12]
        self._inbox = Inbox()
        self._link = BoardLink(
            address, fleet=settings.fleet, board_id=board_id, boot_id=self._boot_id, inbox=self._inbox
        )
        folder = Path(settings.state) / board_id if settings.state else None
        rng = random.Random()  # noqa: S311 - jitter is no secret
        self._outbox = Outbox(max_bytes=settings.outbox_bytes, clock=time.monotonic, rng=rng, boot_id=self._boot_id)
        self._diary = Diary(board_id, self._boot_id, period_s=settings.telemetry_period_s, send_log=self._link.send_log)
        self._keeper = OutboxKeeper(
            self._outbox,
            folder,
            spill_after_s=settings.spill_after_s,
            counters=self._diary.counters,
            warn=self._diary.warn,
        )
        self._keeper.recover()
        self._files = files = BoardFiles(folder, count=self._diary.count)
        self._gate = FrameGate(
            settings.root_key,
            fleet=settings.fleet,
            clock_floor_s=settings.clock_floor_s,
            is_loopback=address.is_loopback,
            files=files,
            keep_every_s=settings.keep_policy_every_s,
        )
        self._memory = BoardMemory(files, self._gate, keep_policy_every_s=settings.keep_policy_every_s)
        self._presence = Presence(board_id, self._boot_id, workers=settings.workers, link=self._link, diary=self._diary)
        self._quarantine = Quarantine(files)
        self._crash_watch = CrashWatch(files)
        self._shelf = PolicyShelf(self._quarantine)
        self._workforce = Workforce(settings, shelf=self._shelf, take_window=self._take_window, warn=self._diary.warn)
        self._admission = Admission(
            self._gate,
            policy_bytes=settings.policy_bytes,
            shelf=self._shelf,
            workforce=self._workforce,
            listen=self._link.hear_policies_of,
            count=self._diary.count,
        )
        self._commander = Commander(
            board_id,
            self._boot_id,
            shelf=self._shelf,
            workforce=self._workforce,
            outbox=self._outbox,
            follow=self._admission.follow,
            policy_bytes=settings.policy_bytes,
            reply=self._reply,
            tell=self._diary.tell,
        )
        self._run: RunSpec | None = None
        self._run_header: FrameHeader | None = None
        self._stopping = False

    def stop(self) -> None:
        """Ask the loop to end; safe in a signal handler."""
        self._stopping = True
        self._inbox.wake()

    def run(self) -> None:
        """Act until stopped, with what is remembered until the network says otherwise."""
        self._recall()
        self._link.start()
        try:
            while not self._stopping:
                self._link.raise_failure()
                pipes = (*self._workforce.pipes(), *self._admission.checker.pipes())
                wait([self._inbox.fileno(), *pipes], timeout=_TICK_S)
                for event in self._inbox.drain():
                    self._handle(event)
                self._admission.checker.serve()
                self._workforce.receive()
                self._commander.answer()
                self._presence.announce(self._run, self._workforce)
                self._send_windows()
                self._keeper.keep()
                self._send_telemetry()
                self._memory.keep_policy(self._shelf.last_good)
                self._gate.keep()
                self._quarantine.keep()
                self._crash_watch.note(is_healthy=self._shelf.is_healthy)
                self._files.retry()
        finally:
            self._memory.keep_policy(self._shelf.last_good, now=True)
            self._gate.keep(now=True)
            self._quarantine.keep(now=True)
            self._crash_watch.end()
            self._files.retry(now=True)
            self._send_telemetry(now=True)
            for part in (self._workforce, self._commander, self._admission.checker):
                part.end()
            self._keeper.close()
            self._link.close(self._presence.session_id)
            self._inbox.close()

    def _recall(self) -> None:
        kept = self._memory.recall()
        if kept is None:
            return
        (self._run_header, run), policies = kept
        self._begin_run(run)
        rung = self._crash_watch.rung
        for policy in policies[:rung]:
            self._quarantine.add(policy.header.sha256, for_s=BOXED_S)
            self._diary.count(
                "kept_policies_locked_away",
                f"{self._crash_watch.failed} starts in a row ended before a policy had proved itself: policy "
                f"{policy.version}, which was kept, is locked away for a day",
            )
        self._admission.recall(policies[rung:])

    # --- what comes from the network --------------------------------------------------------------------------------

    def _handle(self, event: Connected | Arrived) -> None:
        if isinstance(event, Connected):
            self._presence.begin_session(event.session_id)
            self._outbox.resend_all()
            return
        kind = event.address.kind
        try:
            require_our_protocol(event.address)
            self._dispatch(kind, event.address.subject, event.payload)
        except BadMessage as error:
            self._diary.count(f"{kind}_undecodable", f"ignored a message on {kind}: {error}")
        except FrameRefused as error:
            self._diary.count(f"{kind}_{error.reason}", f"refused a message on {kind}: {error}")

    def _dispatch(self, kind: str, subject: str, payload: bytes) -> None:
        match kind:
            case "run":
                self._take_run(payload)
            case "policy":
                self._admission.take(payload, group=subject)
            case "learner":
                self._take_heartbeat(decode(payload, LearnerReport))
            case "status" if subject == self._board_id:
                self._presence.hear(decode(payload, Status))
            case "ack" if subject == self._board_id:
                self._take_ack(decode(payload, Ack))
            case "command" | "candidate" if subject == self._board_id:
                header, body = self._gate.open(payload, kind=kind, target=self._board_id)
                self._commander.take(header, decode(body, Bench if kind == "candidate" else Command))
                self._gate.note(header)
            case _:
                self._diary.counters[f"{kind}_unexpected"] += 1

    def _take_run(self, payload: bytes) -> None:
        header, body = self._gate.open(payload, kind="run", target=ALL_BOARDS)
        run = decode(body, RunSpec)
        if (header.run_id, header.version) != (run.run_id, run.generation):
            raise FrameRefused("mixed", "the frame's header names another run than its body")
        is_older = self._run is not None and run.generation <= self._run.generation
        is_known = run == self._run  # retained, and sent again; perhaps under another key
        if is_older and not is_known and not self._gate.is_revoked(self._run_header):
            return
        self._memory.keep_run(payload)
        self._gate.note(header)
        self._run_header = header
        if not is_known:
            self._begin_run(run)

    def _begin_run(self, run: RunSpec) -> None:
        _log.info("run %s: %s", run.run_id, run.env_id)
        self._run = run
        self._shelf.begin_run()
        for entry in self._outbox.drop_stale(run_id=run.run_id, max_age_s=run.max_age_s):
            self._diary.counters["windows_dropped"] += 1
            self._workforce.window_left(entry.worker)
        self._workforce.start_run(run)
        self._admission.begin_run(run)
        self._commander.begin_run()

    def _take_heartbeat(self, report: LearnerReport) -> None:
        if self._admission.misses(report):
            self._diary.counters["resubscribed"] += 1
            self._link.ask_again()

    def _take_ack(self, ack: Ack) -> None:
        now = time.monotonic()
        for entry in self._outbox.ack(ack.finished, boot_id=ack.boot_id):
            if ack.boot_id == self._boot_id:
                self._diary.note("publish_to_ack_ms", (now - entry.produced_at) * 1e3)
            self._workforce.window_left(entry.worker)

    # --- what comes from the workers --------------------------------------------------------------------------------

    def _take_window(self, worker: int, window: WindowDone) -> None:
        assert self._run is not None  # noqa: S101 - workers exist only within a run
        entry = self._outbox.add(window.body, run_id=self._run.run_id, worker=worker, env_steps=window.env_steps)
        _log.debug("window %d of %d bytes", entry.seq, len(window.body))
        self._diary.merge(window.sketches)

    # --- what goes out ----------------------------------------------------------------------------------------------

    def _send_windows(self) -> None:
        if self._run is not None:
            for entry in self._outbox.drop_stale(run_id=self._run.run_id, max_age_s=self._run.max_age_s):
                self._workforce.window_left(entry.worker)
        for entry in self._outbox.due():
            if not self._link.send_trajectory(self._message(entry)):
                return
            self._diary.counters["windows_resent"] += entry.sends > 0
            self._outbox.mark_sent(entry)

    def _message(self, entry: OutboxEntry) -> TrajectoryMessage:
        return TrajectoryMessage(
            run_id=entry.run_id,
            board_id=self._board_id,
            boot_id=entry.boot_id,
            seq=entry.seq,
            oldest_seq=self._outbox.oldest_seq_of(entry.boot_id),
            body=entry.body,
        )

    def _send_telemetry(self, *, now: bool = False) -> None:
        if not (now or self._diary.is_due()):
            return
        self._diary.counters["reconnects"] = self._link.reconnects
        telemetry = self._diary.telemetry(
            run_id=self._run.run_id if self._run else "",
            policy_group=self._admission.group,
            shelf=self._shelf,
            outbox=self._outbox,
            workforce=self._workforce,
            pids=[*self._workforce.pids(), *self._admission.checker.pids()],
        )
        self._link.send_telemetry(telemetry)

    def _reply(self, reply: CommandReply) -> None:
        self._send_telemetry(now=True)  # whoever asked sees counters as new as the answer
        self._link.send_reply(reply)
