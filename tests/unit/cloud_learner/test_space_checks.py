"""The first birth of a run may tell spaces that no policy can have: refused before a network is made of them."""

import pytest

from cloud_learner.board_book import BoardBook
from cloud_learner.space_checks import require_possible
from fleet_protocol.codec import BadMessage
from fleet_protocol.messages import Birth, Problem
from fleet_protocol.spaces import BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec, SpaceSpec

VECTOR, TWO = BoxSpec(shape=(4,), dtype="float32"), DiscreteSpec(n=2)
IMAGE = BoxSpec(shape=(84, 84, 4), dtype="uint8")


@pytest.mark.parametrize("action", [TWO, MultiDiscreteSpec(nvec=[3, 5]), MultiBinarySpec(n=7), VECTOR])
@pytest.mark.parametrize("observation", [VECTOR, IMAGE])
def test_spaces_of_boards_are_possible(observation: BoxSpec, action: SpaceSpec):
    assert require_possible(observation, action) == (observation, action)


@pytest.mark.parametrize(
    ("observation", "action"),
    [
        (BoxSpec(shape=(), dtype="float32"), TWO),
        (BoxSpec(shape=(3, 3), dtype="float32"), TWO),
        (BoxSpec(shape=(1, 2, 3, 4), dtype="uint8"), TWO),
        (BoxSpec(shape=(4,), dtype="uint8"), TWO),
        (BoxSpec(shape=(84, 84, 4), dtype="float32"), TWO),
        (BoxSpec(shape=(4,), dtype="garbage"), TWO),
        (BoxSpec(shape=(10**9,), dtype="float32"), TWO),
        (BoxSpec(shape=(10**6, 10**6, 10**6), dtype="uint8"), TWO),
        (TWO, TWO),
        (VECTOR, None),
        (VECTOR, DiscreteSpec(n=10**12)),
        (VECTOR, MultiDiscreteSpec(nvec=[2**16, 2])),
        (VECTOR, MultiBinarySpec(n=2**60)),
        (VECTOR, BoxSpec(shape=(2**40,), dtype="float32")),
    ],
    ids=str,
)
def test_what_no_board_tells_is_refused_and_the_next_board_fixes_the_spaces(
    observation: SpaceSpec, action: SpaceSpec | None
):
    book = BoardBook("r", None)
    with pytest.raises(BadMessage):
        book.take_status(birth(observation, action))
    assert book.spaces is None
    book.take_status(birth(VECTOR, TWO))
    assert book.spaces == (VECTOR, TWO)


def test_a_board_that_tells_its_problem_need_not_tell_spaces():
    book = BoardBook("r", None)
    book.take_status(birth(None, None, problem=Problem(code=1, sentence="why")))
    assert book.problems() == {"b": "why"}


def birth(observation: SpaceSpec | None, action: SpaceSpec | None, problem: Problem | None = None) -> Birth:
    return Birth(
        board_id="b",
        boot_id="x",
        session_id="s",
        software="t",
        run_id="r",
        observation_space=observation,
        action_space=action,
        problem=problem,
    )
