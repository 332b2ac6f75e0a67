"""Topics, addresses, settings and frames: what is right comes back, what is wrong is named."""

from pathlib import Path

import msgspec
import pytest

from fleet_protocol.address import BrokerAddress
from fleet_protocol.codec import decode, encode
from fleet_protocol.commands import Pause
from fleet_protocol.exit_codes import EXPLANATIONS, ExitCode, ProgramError
from fleet_protocol.messages import Frame, FrameHeader
from fleet_protocol.settings import describe_settings, load_settings
from fleet_protocol.signing import FrameRefused, open_frame, seal_frame
from fleet_protocol.topics import BadName, FleetTopics, TopicAddress, checked_name

TOPICS = FleetTopics("home")


# --- topics


@pytest.mark.parametrize(
    ("topic", "address"),
    [
        (TOPICS.run, TopicAddress("run")),
        (TOPICS.learner, TopicAddress("learner")),
        (TOPICS.policy("all"), TopicAddress("policy", "all")),
        (TOPICS.status("b1"), TopicAddress("status", "b1")),
        (TOPICS.up("b1", "trajectory"), TopicAddress("trajectory", "b1")),
        (TOPICS.down("b1", "ack"), TopicAddress("ack", "b1")),
        ("edgerl/2/home/learner", TopicAddress("learner", protocol=2)),
    ],
)
def test_a_topic_is_taken_apart_into_what_made_it(topic: str, address: TopicAddress):
    assert TOPICS.parse(topic) == address


@pytest.mark.parametrize(
    "topic",
    [
        *("", "secret/x", "edgerl/1/other/run", "edgerl/x/home/run", "edgerl/1/home", "edgerl/1/home/board/a b/status"),
        f"edgerl/{'9' * 5000}/home/learner",  # more digits than int() takes
        "edgerl/\u0661/home/run",  # a decimal digit, but not one of ours
        "edgerl/01/home/run",
        "edgerl/1/home/run/x",
        "edgerl/1/home/policy/a b",
        "edgerl/1/home/board/b1/up/run",  # a board cannot pass for the learner
        "edgerl/1/home/board/b1/up/ack",
        "edgerl/1/home/board/b1/down/trajectory",
    ],
    ids=lambda topic: topic[:40],
)
def test_a_topic_of_somebody_else_is_none(topic: str):
    assert TOPICS.parse(topic) is None


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "a b", "a\n", "-a", "x" * 64, "π", "🙂", "../x"])
def test_a_name_that_cannot_stand_in_a_topic_is_refused(name: str):
    with pytest.raises(BadName, match="expected 1 to 63"):
        checked_name(name, what="board")


# --- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", BrokerAddress("127.0.0.1", 1883)),
        ("localhost:1999", BrokerAddress("localhost", 1999)),
        ("[::1]:1884", BrokerAddress("::1", 1884)),
        ("::1", BrokerAddress("::1", 1883)),
        ("[::1]", BrokerAddress("::1", 1883)),
        ("pi-4.local:65535", BrokerAddress("pi-4.local", 65535)),
    ],
)
def test_an_address_is_read(text: str, address: BrokerAddress):
    assert BrokerAddress.parse(text) == address
    assert BrokerAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", ":1883", "host:0", "host:65536", "host:x", "host:-1", "host:", "a b:1", "host:1.5", "host:\u0661"),
        *("[]", "[]:5", "[::1", "[::1]x:5", f"host:{'9' * 5000}"),
    ],
    ids=lambda text: text[:20],
)
def test_an_address_that_is_none_is_refused(text: str):
    with pytest.raises(ProgramError, match="HOST:PORT") as refused:
        BrokerAddress.parse(text)
    assert refused.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1"])
def test_loopback_may_be_spoken_to_in_plain_text(host: str):
    assert BrokerAddress(host).require_loopback().host == host


@pytest.mark.parametrize(
    "host", ["192.168.1.2", "10.0.0.1", "0.0.0.0", "example.com", "localhost.example.com", "8.8.8.8"]
)
def test_any_other_host_is_refused(host: str):
    with pytest.raises(ProgramError) as refused:
        BrokerAddress(host).require_loopback()
    assert refused.value.exit_code == ExitCode.ADDRESS_REFUSED


# --- settings


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    gamma: float = 0.99
    env_id: str = "X"
    sizes: list[int] = []


class Described(msgspec.Struct, frozen=True):
    gamma: float = 0.99
    """The discount."""
    env_id: str = "X"


def write(folder: Path, text: str) -> Path:
    file = folder / "edgerl.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_flags_win_over_variables_over_the_file_over_defaults(tmp_path: Path):
    file = write(tmp_path, '[learner]\ngamma = 0.5\nenv_id = "file"\nsizes = [1]\n')
    environ = {"EDGERL_LEARNER_ENV_ID": "variable", "EDGERL_LEARNER_SIZES": "[2, 3]"}
    flags = {"env_id": "flag", "gamma": None}
    assert load_settings(Sample, "learner", environ={}) == Sample()
    assert load_settings(Sample, "learner", file=file, environ={}) == Sample(gamma=0.5, env_id="file", sizes=[1])
    with_variables = load_settings(Sample, "learner", file=file, environ=environ)
    assert with_variables == Sample(gamma=0.5, env_id="variable", sizes=[2, 3])
    assert load_settings(Sample, "learner", file=file, environ=environ, flags=flags).env_id == "flag"


@pytest.mark.parametrize(
    ("text", "environ", "words"),
    [
        ("[learner]\ngama = 1\n", {}, "did you mean 'gamma'"),
        ("[lerner]\ngamma = 1\n", {}, "did you mean 'learner'"),
        ("", {"EDGERL_LEARNER_GAMA": "1"}, "EDGERL_LEARNER_GAMA"),
        ('[learner]\ngamma = "much"\n', {}, "gamma"),
        ("[learner\n", {}, "not TOML"),
        ("learner = 3\n", {}, r"write \[learner\]"),
        ("[learner]\ncolour = 1\n", {}, "known: env_id, gamma, sizes"),
        ("[learner]\nsizes = [1, 'x']\n", {}, r"\[learner\].*sizes\[1\]"),
        ("", {"EDGERL_LEARNER_GAMMA": "much"}, "gamma"),
        ("", {"EDGERL_LEARNER_SIZES": "[1,"}, "sizes"),
    ],
)
def test_what_is_wrong_in_settings_is_named(text: str, environ: dict[str, str], words: str, tmp_path: Path):
    with pytest.raises(ProgramError, match=words) as refused:
        load_settings(Sample, "learner", file=write(tmp_path, text), environ=environ)
    assert refused.value.exit_code == ExitCode.CONFIG


def test_a_wrong_flag_is_named():
    with pytest.raises(ProgramError, match="gamma"):
        load_settings(Sample, "learner", flags={"gamma": "much"}, environ={})


def test_a_file_that_is_no_text_is_named(tmp_path: Path):
    (tmp_path / "edgerl.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ProgramError, match="not TOML"):
        load_settings(Sample, "learner", file=tmp_path / "edgerl.toml", environ={})


def test_the_tables_and_variables_of_other_programs_are_not_ours(tmp_path: Path):
    file = write(tmp_path, "[board]\nanything = 1\n")
    assert load_settings(Sample, "learner", file=file, environ={"EDGERL_BOARD_ANYTHING": "1"}) == Sample()


def test_a_setting_is_described_by_the_sentence_under_it():
    assert describe_settings(Described) == {"gamma": "The discount."}


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ProgramError, match="cannot read"):
        load_settings(Sample, "learner", file=tmp_path / "none.toml", environ={})


# --- frames


def resealed(frame: bytes, **changes: object) -> bytes:
    """The frame with another header, its body as it was."""
    opened = decode(frame, Frame)
    header = msgspec.structs.replace(decode(opened.header, FrameHeader), **changes)
    return encode(Frame(header=encode(header), signature=opened.signature, body=opened.body))


def make_frame(body: bytes = b"body", **changes: object) -> bytes:
    parts: dict[str, object] = {"kind": "policy", "version": 3, "run_id": "r"}
    return seal_frame(body, **(parts | changes))  # pyright: ignore[reportArgumentType]


def test_a_frame_opens_into_its_header_and_body():
    header, body = open_frame(make_frame(target="b1"), kind="policy", unsigned_allowed=True)
    assert (header.version, header.run_id, header.target, body) == (3, "r", "b1", b"body")


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"garbage", "undecodable"),
        (encode(Pause(run_id="r")), "undecodable"),
        (encode(Frame(header=b"x", signature=b"", body=b"")), "undecodable"),
        (make_frame(kind="run"), "kind"),
        (make_frame(valid_s=-1.0), "expired"),
        (resealed(make_frame(), expires_at=float("nan")), "expired"),
        (resealed(make_frame(), size=5), "size"),
        (resealed(make_frame(), sha256=bytes(32)), "hash"),
        (encode(msgspec.structs.replace(decode(make_frame(), Frame), body=b"bodx")), "hash"),
        (encode(msgspec.structs.replace(decode(make_frame(), Frame), signature=bytes(64))), "signature"),
    ],
)
def test_a_frame_that_must_not_be_acted_on_is_refused_by_name(payload: bytes, reason: str):
    with pytest.raises(FrameRefused) as refused:
        open_frame(payload, kind="policy", unsigned_allowed=True)
    assert refused.value.reason == reason


def test_an_unsigned_frame_is_refused_off_loopback():
    with pytest.raises(FrameRefused) as refused:
        open_frame(make_frame(), kind="policy", unsigned_allowed=False)
    assert refused.value.reason == "signature"


# --- exit codes


def test_every_exit_code_is_explained():
    assert set(EXPLANATIONS) == set(ExitCode)
    assert all(sentence.endswith(".") for sentence in EXPLANATIONS.values())


def test_no_two_exit_codes_share_a_number():
    numbers = [int(code) for code in ExitCode.__members__.values()]  # an alias would be a member of its own here
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number <= 255 for number in numbers)


def test_a_program_error_carries_its_exit_code_and_its_sentence():
    error = ProgramError(ExitCode.NO_BROKER, "nobody is there")
    assert (error.exit_code, str(error)) == (4, "nobody is there")


@pytest.mark.parametrize("name", ["EDGERL_LERNER_SEED", "EDGERL_BOADR_COPIES", "EDGERL_LEARNR_X"])
def test_a_variable_of_a_misspelt_table_is_refused_with_the_right_one(name: str):
    with pytest.raises(ProgramError, match=r"did you mean '(learner|board)'"):
        load_settings(Sample, "board", environ={name: "1"})


def test_a_variable_of_somebody_elses_is_let_be():
    load_settings(Sample, "board", environ={"EDGERL_TEST_MARK": "x", "EDGERL_HOME": "y"})
