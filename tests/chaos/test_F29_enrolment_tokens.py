"""F29: a token gives one certificate, once, to its board, in its fleet, in its time; and every refusal is on record."""

import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from fleet_manager.enrolment import Enrolment
from fleet_manager.fleet_folder import FleetFolder
from fleet_protocol.keys import PrivateKey

sys.path.append(str(Path(__file__).parents[1] / "integration"))
from running_depot import RunningDepot, running_depot

TRIES = 50


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[RunningDepot]:
    FleetFolder.create(tmp_path / "fleet", fleet="home", hosts=["127.0.0.1"])
    with running_depot(tmp_path / "fleet", tmp_path) as depot:
        yield depot


def refusals(depot: RunningDepot) -> list[tuple[str, str]]:
    return [(entry["name"], entry["reason"]) for entry in depot.audited("refused")]


def test_F29_a_token_is_good_once(depot: RunningDepot):
    token, before = depot.token("b1"), depot.issued()
    assert "BEGIN CERTIFICATE" in depot.ask(token)
    assert "was used" in depot.ask(token)
    assert depot.issued() == before + 1
    assert refusals(depot) == [("b1", "used_token")]
    assert [entry["name"] for entry in depot.audited("enrolled")] == ["b1"]


def test_F29_of_fifty_that_try_at_a_time_one_gets_a_certificate(depot: RunningDepot):
    token, before, together = depot.token("b1"), depot.issued(), Barrier(TRIES)

    def try_it() -> str:
        together.wait(60)
        return depot.ask(token)

    with ThreadPoolExecutor(TRIES) as pool:
        answers = [future.result() for future in [pool.submit(try_it) for _ in range(TRIES)]]
    assert sum("BEGIN CERTIFICATE" in answer for answer in answers) == 1
    assert sum("was used" in answer for answer in answers) == TRIES - 1
    assert depot.issued() == before + 1
    assert refusals(depot) == [("b1", "used_token")] * (TRIES - 1)
    assert FleetFolder(depot.root).audit.verify() == []


def test_F29_a_token_expires(depot: RunningDepot):
    before = depot.issued()
    assert "has expired" in depot.ask(depot.token("b1", minutes=0.0))
    assert depot.issued() == before
    assert refusals(depot) == [("b1", "expired_token")]


def test_F29_a_newer_token_replaces_an_older_one_and_a_revocation_both(depot: RunningDepot):
    older, newer = depot.token("b1"), depot.token("b1")
    assert "replaced by a newer one" in depot.ask(older)
    assert "BEGIN CERTIFICATE" in depot.ask(newer)
    Enrolment(depot.root).revoke("b1")
    last = depot.token("b1")
    FleetFolder(depot.root).enroll("b1")
    Enrolment(depot.root).revoke("b1")
    assert "was used" in depot.ask(last)


def test_F29_a_token_of_another_fleet_is_not_even_shown(depot: RunningDepot, tmp_path: Path):
    FleetFolder.create(tmp_path / "other", fleet="home", hosts=["127.0.0.1"])
    token = Enrolment(tmp_path / "other").make_token("b1", minutes=60)
    assert "The token was not shown" in depot.ask(token)
    assert refusals(depot) == []
    forged = replace(token, fingerprint=depot.token("b2").fingerprint)
    assert "no such token" in depot.ask(forged)
    assert refusals(depot) == [("b1", "wrong_token")]


def test_F29_a_depot_with_the_fleets_ca_cannot_slip_another_root_in(depot: RunningDepot, tmp_path: Path):
    shutil.copytree(depot.root, tmp_path / "thief")
    token = depot.token("b1")
    PrivateKey().save_public(tmp_path / "thief/keys/root.pub")
    with running_depot(tmp_path / "thief", tmp_path) as thief:
        assert "The token was not shown" in thief.ask(token)
    assert "BEGIN CERTIFICATE" in depot.ask(token)


@pytest.mark.parametrize("change", [{"secret": "A" * 32}, {"board_id": "b2"}, {"board_id": "learner"}], ids=str)
def test_F29_a_changed_token_is_wrong_and_the_right_one_stays_good(depot: RunningDepot, change: dict[str, str]):
    token, before = depot.token("b1"), depot.issued()
    changed = replace(token, **change)
    assert "no such token" in depot.ask(changed)
    assert depot.issued() == before
    assert refusals(depot) == [(changed.board_id, "wrong_token")]
    assert "BEGIN CERTIFICATE" in depot.ask(token)


def test_F29_who_guesses_waits(depot: RunningDepot):
    token = depot.token("b1")
    wrong = [depot.ask(replace(token, secret=f"{index:032d}")) for index in range(9)]
    assert ["too many tries" in answer for answer in wrong][:5] == [False] * 5
    assert any("too many tries" in answer for answer in wrong)
    assert len(refusals(depot)) < len(wrong)


@pytest.mark.thorough
def test_F29_who_dribbles_a_request_is_cut_off_after_half_a_minute(depot: RunningDepot):
    began = time.monotonic()
    with depot.connect() as slow, suppress(OSError):
        slow.sendall(b"POST /enroll HTTP/1.1\r\n")
        slow.settimeout(0.5)
        while time.monotonic() < began + 60:
            slow.sendall(b"X-Nothing: at all\r\n")
            with suppress(TimeoutError):
                assert slow.recv(1000) == b""
                break
    assert 25 < time.monotonic() - began < 45


def test_F29_no_token_stands_in_any_file_or_log(depot: RunningDepot):
    used, unused, wrong = depot.token("b1"), depot.token("b2"), replace(depot.token("b3"), secret="W" * 32)
    for token in (used, used, wrong):
        depot.ask(token)
    depot.post("/enroll", b'{"board_id": "b2", "secret": 1, "csr": "' + unused.secret.encode() + b'"}')
    files = [depot.log, *(path for path in depot.root.rglob("*") if path.is_file())]
    for token in (used, unused, wrong):
        assert [file for file in files if token.secret.encode() in file.read_bytes()] == []
