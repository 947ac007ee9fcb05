"""Values with some of their fields changed are as the standard library makes them."""

import dataclasses
from dataclasses import dataclass, field

import pytest
from test_gather import begun, stepping

from analysis.values import replace
from controller.gather import Gathered


@dataclass(frozen=True, slots=True)
class Kept:
    """A value that knows something of its own, which a changed one does not."""

    one: int
    two: tuple[int, ...] = ()
    known: int | None = field(default=None, init=False)


@dataclass(frozen=True, slots=True)
class Checked:
    one: int
    two: int = 0

    def __post_init__(self) -> None:
        if self.one < 0:
            raise ValueError("it is below 0")


def test_what_is_changed_is_new_and_everything_else_is_the_old_one() -> None:
    run = stepping(weight=7)
    evidence = begun(run).evidence[0]
    for value, changes in (
        (run, {"weight": 9, "message": "said"}),
        (begun(run), {"step": 3}),
        (evidence, {"at": evidence.at + 1}),
        (evidence.memory, {"le": (0.1, 0.2)}),
    ):
        found, expected = replace(value, **changes), dataclasses.replace(value, **changes)  # type: ignore[type-var]
        assert type(found) is type(value)
        for one in dataclasses.fields(value):  # type: ignore[arg-type]
            assert getattr(found, one.name) is getattr(expected, one.name)
        assert found is not value


def test_what_a_value_knows_of_itself_is_not_known_of_the_changed_one() -> None:
    value = Kept(1, (2,))
    object.__setattr__(value, "known", 5)
    assert replace(value, one=2) == Kept(2, (2,))
    assert replace(value, one=2).known is None


def test_where_nothing_changes_the_value_is_the_same_one() -> None:
    value = Kept(1, (2,))
    object.__setattr__(value, "known", 5)
    assert replace(value, one=1) is value
    assert replace(value, one=1, two=(3,)) == Kept(1, (3,))


def test_what_is_checked_when_a_value_is_made_is_checked_when_it_is_changed() -> None:
    assert replace(Checked(1), two=3) == Checked(1, 3)
    with pytest.raises(ValueError, match="below 0"):
        replace(Checked(1), one=-1)


@pytest.mark.parametrize("name", ["none", "known"])
def test_a_field_that_cannot_be_given_is_refused(name: str) -> None:
    with pytest.raises((TypeError, ValueError)):
        replace(Kept(1), **{name: 1})


def test_a_gathered_value_is_one_of_the_quick_ones() -> None:
    from analysis.values import _PLANS

    replace(begun(stepping()), step=2)
    assert _PLANS[Gathered] is not None
