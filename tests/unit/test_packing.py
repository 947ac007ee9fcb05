"""Arrays as a short text and back, whatever is in them."""

from base64 import b64encode, b85encode

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from analysis.packing import LARGEST, NEVER, encoded, first, lessened, opened, packed, rounded, unpacked

SHAPES = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
COUNTS = st.sampled_from([255, 65_535, 2**32 - 1]).flatmap(lambda most: st.integers(0, most)).map(float)
NUMBERS = st.one_of(
    COUNTS,
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, NEVER, 255.0, 256.0, 65_536.0, 2.0**32, -1.0, 700.0, -700.0]),
)
FINITE = arrays(np.float64, SHAPES, elements=NUMBERS)
SOME = [np.arange(12.0).reshape(3, 4), np.array(0.1), np.zeros((2, 0)), np.full(3, NEVER)]


@given(st.lists(FINITE, max_size=4))
def test_finite_arrays_survive_bit_by_bit(values: list[np.ndarray]) -> None:
    back = unpacked(packed(values), [one.shape for one in values])
    assert len(back) == len(values)
    for one, there in zip(values, back, strict=True):
        assert (there.dtype, there.shape, there.tobytes()) == (one.dtype, one.shape, one.tobytes())


@given(st.lists(FINITE, min_size=2, max_size=4))
def test_the_first_can_be_had_without_knowing_the_rest(values: list[np.ndarray]) -> None:
    (one,), rest = first(opened(packed(values)), [values[0].shape])
    assert (one == values[0]).all()
    assert first(rest, [values[1].shape])[0][0].tobytes() == values[1].tobytes()
    with pytest.raises(ValueError, match="longer than expected"):
        unpacked(packed(values), [values[0].shape])


@given(st.binary(max_size=50))
def test_the_text_is_that_of_pythons_base85(whole: bytes) -> None:
    assert encoded(whole) == b85encode(whole).decode()


@given(FINITE)
def test_rounding_twice_is_rounding_once(value: np.ndarray) -> None:
    small = np.clip(value, -1e30, 1e30)
    assert rounded(rounded(small)).tobytes() == rounded(small).tobytes()


@given(FINITE)
def test_lessened_numbers_are_near_and_never_larger(value: np.ndarray) -> None:
    small = rounded(np.clip(value, -1e30, 1e30))
    less = lessened(small)
    assert (less <= small).all()
    assert (small - less <= np.abs(small) / 2**7 + 1e-37).all()
    assert lessened(less).tobytes() == less.tobytes()


def test_lessened_numbers_cost_half() -> None:
    noise = np.random.default_rng(3).uniform(-700, 700, 400)
    assert len(packed([lessened(noise)])) < 0.6 * len(packed([rounded(noise)]))
    assert lessened(np.array([700.0, -700.0, 0.0])).tolist() == [700.0, -700.0, 0.0]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_not_finite_is_refused(number: float, place: int) -> None:
    values = [np.zeros(2), np.array(1.5), np.full((2, 2), 1e300)]
    values[place] = np.where(np.arange(values[place].size).reshape(values[place].shape) == 0, number, 1.0)
    with pytest.raises(ValueError, match="finite"):
        packed(values)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_used(number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as lenient:
        lenient.setattr(np, "isfinite", np.ones_like)
        text = packed([np.array([1.5, number])])
    with pytest.raises(ValueError, match="finite"):
        unpacked(text, [(2,)])


def test_counts_cost_as_little_as_the_largest_of_them_needs() -> None:
    noise = np.random.default_rng(3)
    sizes = [len(packed([np.floor(noise.uniform(0, most, 400))])) for most in (2**8, 2**16, 2**32)]
    assert sizes[0] < 0.6 * sizes[1] < 0.4 * sizes[2]


@pytest.mark.parametrize("left", range(len(packed(SOME))))
def test_text_that_was_cut_is_refused(left: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 # base64's own says it in words of its own
        unpacked(packed(SOME)[:left], [one.shape for one in SOME])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not ours",
        "0123456789abcdef",
        "é" * 8,
        b64encode(b"plain bytes").decode(),
        packed([np.arange(9.0)])[4:],
        packed([np.arange(9.0)]) + "\n",
    ],
)
def test_text_of_others_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 # base64's own says it in words of its own
        unpacked(text, [(9,)])


@pytest.mark.parametrize("place", range(len(packed(SOME))))
def test_a_single_letter_that_was_changed_is_noticed(place: int) -> None:
    text = packed(SOME)
    changed = text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :]
    with pytest.raises(ValueError):  # noqa: PT011 # which of the reasons depends on the letter
        unpacked(changed, [one.shape for one in SOME])


@given(st.text(max_size=60))
def test_whatever_the_text_it_is_refused_or_gives_what_was_asked_for(text: str) -> None:
    try:
        (back,) = unpacked(text, [(3,)])
    except ValueError:
        return
    assert back.shape == (3,)


@pytest.mark.parametrize("shapes", [[(13,)], [(11,)], [(3, 4), (1,)], []])
def test_other_shapes_than_were_packed_are_refused(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="restart the step"):
        unpacked(packed([np.arange(12.0)]), shapes)


def test_a_page_that_grows_too_large_is_refused() -> None:
    text = packed([np.zeros(2 * LARGEST)])
    assert len(text) < LARGEST / 100
    with pytest.raises(ValueError, match="restart the step"):
        unpacked(text, [(2 * LARGEST,)])
