"""A token counts once whoever races for it, for its board and fleet only; the file holds no secret."""

import subprocess
import sys
from pathlib import Path

import pytest

from fleet_manager.token_book import Refused, TokenBook
from fleet_protocol.enrolment import BadToken, EnrolmentToken, FleetTrust

TRUST = FleetTrust(ca="ca", root_public="root")
RACE = """
import sys
from pathlib import Path
from fleet_manager.token_book import Refused, TokenBook
book = TokenBook(Path(sys.argv[1]), fleet="home")
sys.stdin.readline()
for index, secret in enumerate(sys.argv[2:]):
    try:
        book.claim(f"b{index}", secret)
        print(index)
    except Refused as error:
        assert error.reason == "used_token", error
"""


@pytest.fixture
def token(tmp_path: Path) -> EnrolmentToken:
    token = EnrolmentToken.new("b1", trust=TRUST)
    TokenBook(tmp_path / "tokens.db", fleet="home").add(token, valid_s=600)
    return token


def test_of_processes_that_claim_at_a_time_one_succeeds(tmp_path: Path):
    book, secrets = TokenBook(tmp_path / "tokens.db", fleet="home"), []
    for index in range(50):
        token = EnrolmentToken.new(f"b{index}", trust=TRUST)
        book.add(token, valid_s=3600)
        secrets.append(token.secret)
    command = [sys.executable, "-c", RACE, str(tmp_path / "tokens.db"), *secrets]
    racing = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in racing:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    claimed = [int(line) for process in racing for line in process.communicate(timeout=200)[0].split()]
    assert [process.returncode for process in racing] == [0] * 4
    assert sorted(claimed) == [*range(50)]


def test_a_token_of_another_fleet_in_the_same_file_is_none(token: EnrolmentToken, tmp_path: Path):
    with pytest.raises(Refused) as refused:
        TokenBook(tmp_path / "tokens.db", fleet="other").claim("b1", token.secret)
    assert refused.value.reason == "wrong_token"
    TokenBook(tmp_path / "tokens.db", fleet="home").claim("b1", token.secret)


def test_neither_file_nor_traceback_shows_the_secret(token: EnrolmentToken, tmp_path: Path):
    assert token.secret.encode() not in (tmp_path / "tokens.db").read_bytes()
    assert token.secret not in repr(token)


def test_what_is_printed_is_read_again(token: EnrolmentToken):
    assert EnrolmentToken.parse(f" {token}\n") == token


@pytest.mark.parametrize(
    "text", ["", "b1", "b1:x:y", "b1:{0.secret}", "b1:{0.secret}:{0.fingerprint}:", "../x:{0.secret}:{0.fingerprint}"]
)
def test_what_was_cut_is_told_without_showing_it(token: EnrolmentToken, text: str):
    with pytest.raises(BadToken) as refused:
        EnrolmentToken.parse(text.format(token))
    assert token.secret not in str(refused.value)
