"""sigmoid and tanh on SIMD vectors: error in units in the last place, limits, signs, order, and width.

All 2³² float32 inputs are judged by `python -m bench.elementary`; here the same judge looks at samples.
"""

import math
import subprocess
import sys
from decimal import Decimal, localcontext
from functools import cache
from pathlib import Path

import fastrnn.kernels.elementary  # noqa: F401  what makes them functions of vectors
import numpy as np
import pytest
from numba import njit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # bench is run from the repository, never installed

from conftest import DTYPES, bits
from fastrnn.kernels import functions
from fastrnn.kernels.simd import select_less, vectors

from bench import elementary as judged
from bench.elementary import INFINITY, NEGATIVE, Verdict, judge

MOST_ULP_FLOAT64 = 4  # float32: bench.elementary.LIMIT
LANES = {"float32": (4, 8, 16), "float64": (2, 4, 8)}
FUNCTIONS = ("sigmoid", "tanh", "relu")
LN2 = math.log(2)
TINY = {"float32": 2.0**-149, "float64": 2.0**-1074}

# Where the formula changes: a clamp, an end of the range of results, a power of two beyond which 1 + eˣ is eˣ; and
# every n of eˣ = 2ⁿ·eʳ.
ENDS = {
    ("sigmoid", "float32"): (-104.0, -103.972, -88.7, -87.3365, -16.63554, 0.0, 16.63554, 25.0),
    ("sigmoid", "float64"): (-746.0, -745.133, -709.8, -708.396, -36.7368, 0.0, 36.7368, 40.0),
    ("tanh", "float32"): (-10.0, -9.01, -0.55, 0.0, 0.55, 9.01, 10.0),
    ("tanh", "float64"): (-20.0, -19.06, 0.0, 19.06, 20.0),
}
every_function = pytest.mark.parametrize("name", ["sigmoid", "tanh"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def joins(name, dtype):
    steps = (np.arange(-40, 41) + 0.5) * (LN2 / 2 if name == "tanh" else LN2)
    return np.array([*ENDS[name, dtype], *steps], dtype)


@cache
def evaluator(dtype, lanes):
    """A compiled function of x (n,) and out (3, n), where it writes the values of FUNCTIONS."""
    vector, sigmoid, tanh, relu = vectors(dtype, lanes), functions.sigmoid, functions.tanh, functions.relu
    load, store, size = vector.load, vector.store, vector.itemsize

    @njit
    def evaluate_all(x, out):
        source, target, line = x.ctypes.data, out.ctypes.data, len(x) * size
        for i in range(0, len(x), lanes):
            count = len(x) - i
            value = load(source + i * size, count)
            place = target + i * size
            store(place, count, sigmoid(value))
            store(place + line, count, tanh(value))
            store(place + 2 * line, count, relu(value))

    return evaluate_all


def evaluate(name, x, lanes=None):
    """One of the kernels' functions on an array."""
    dtype = str(x.dtype)
    out = np.empty((len(FUNCTIONS), len(x)), dtype)
    evaluator(dtype, lanes or LANES[dtype][-1])(np.ascontiguousarray(x), out)
    return out[FUNCTIONS.index(name)]


def around(centre, number):
    """So many consecutive floating-point numbers on either side of `centre`, in order."""
    integer = np.int32 if centre.dtype == np.float32 else np.int64
    near = centre.view(integer) + np.arange(-number, number + 1, dtype=integer)
    if centre == 0:  # subnormal numbers of both signs
        steps = np.arange(number + 1, dtype=integer).view(centre.dtype)
        return np.concatenate([-steps[::-1], steps])
    return np.sort(near.view(centre.dtype))


def sample(dtype, mantissas=16):
    """Numbers of every exponent and both signs, in order, subnormal ones among them; no inf, no NaN."""
    unsigned, mantissa_bits, exponents = (np.uint32, 23, 255) if dtype == "float32" else (np.uint64, 52, 2047)
    rng = np.random.default_rng(0)
    random = rng.integers(0, 1 << mantissa_bits, (exponents, mantissas), dtype=unsigned)
    random[:, :3] = 0, 1, (1 << mantissa_bits) - 1
    positive = np.sort(((np.arange(exponents, dtype=unsigned)[:, None] << mantissa_bits) | random).ravel())
    positive = positive.view(dtype)
    return np.concatenate([-positive[::-1], positive])


# Error and order


def windows(name):
    """Ranges of float32 inputs for `judge`: some of every exponent and sign, most where the functions are not flat, and
    dense ones around the joins."""
    rng = np.random.default_rng(0)
    ranges = []
    for exponent in range(256):
        number, size = (60, 16384) if 112 <= exponent <= 133 else (4, 512)  # |x| from 2⁻¹⁵ to 2⁷
        for sign in (0, NEGATIVE):
            starts = rng.integers(0, (1 << 23) - size, number) + (exponent << 23) + sign
            ranges += [(int(start), size) for start in starts]
    for join in joins(name, "float32"):
        centre = int(bits(join.reshape(1))[0])
        ranges.append((centre - 5000, 10000) if centre & (NEGATIVE - 1) else (centre, 5000))
    for sign in (0, NEGATIVE):
        ranges.append((sign + INFINITY - 500, 1000))
    return ranges


@every_function
def test_float32_errors_are_at_most_two_units_in_the_last_place(name):
    verdict = judge(name, windows(name))
    assert verdict.good, verdict


def true_value(name, x):
    """To 40 digits; |x| below some thousands."""
    with localcontext() as context:
        context.prec = 60
        x = Decimal(float(x))
        if name == "sigmoid":
            return 1 / (1 + (-x).exp())
        if abs(x) < Decimal("1e-13"):
            return x - x**3 / 3
        e = (2 * x).exp()
        return (e - 1) / (e + 1)


def error_in_ulp(got, expected):
    """Distance in units in the last place that a float64 of the expected size has; beyond the largest, inf is exact."""
    nearest = float(expected)
    if math.isinf(nearest) or math.isinf(got):
        return 0.0 if got == nearest else math.inf
    below = math.nextafter(nearest, 0.0) if abs(Decimal(nearest)) > abs(expected) else nearest
    return float(abs(Decimal(float(got)) - expected) / Decimal(math.ulp(below)))


@every_function
def test_float64_errors_are_at_most_four_units_in_the_last_place(name):
    x = sample("float64", mantissas=40)
    size = np.abs(x)
    x = np.concatenate([x[(size > 2.0**-60) & (size < 1500)], x[size <= 2.0**-60][::397]])
    x = np.concatenate([x, *(around(join, 8) for join in joins(name, "float64"))])
    y, expected = evaluate(name, x), [true_value(name, v) for v in x]
    errors = [error_in_ulp(*pair) for pair in zip(y, expected, strict=True)]
    worst = int(np.argmax(errors))
    assert errors[worst] <= MOST_ULP_FLOAT64, float(x[worst]).hex()


@every_dtype
@every_function
def test_values_never_fall(name, dtype):
    for x in [sample(dtype), *(around(join, 2000) for join in joins(name, dtype))]:
        y = evaluate(name, x)
        falls = np.flatnonzero(y[1:] < y[:-1])
        assert [float(x[i]).hex() for i in falls] == []


@every_dtype
def test_subnormal_results_are_not_flushed_to_zero(dtype):
    smallest = TINY[dtype]
    x = np.array([math.log(smallest) + 0.1, math.log(smallest) + 3, math.log(smallest) + 6], dtype)
    expected = np.exp(x.astype(np.longdouble if dtype == "float64" else np.float64))
    assert evaluate("sigmoid", x) == pytest.approx(expected.astype(np.float64), abs=smallest, rel=0)
    assert (evaluate("sigmoid", x) > 0).all()


# Limits


INF, NAN = math.inf, math.nan
VALUES = {
    "sigmoid": [(-INF, 0.0), (INF, 1.0), (0.0, 0.5), (-0.0, 0.5), (-1e30, 0.0), (1e30, 1.0)],
    "tanh": [(-INF, -1.0), (INF, 1.0), (0.0, 0.0), (-0.0, -0.0), (-1e30, -1.0), (1e30, 1.0)],
    "relu": [(-INF, 0.0), (INF, INF), (0.0, 0.0), (-0.0, 0.0), (-1.5, 0.0), (1.5, 1.5)],
}


@every_dtype
@pytest.mark.parametrize("lanes", [0, 1, 2], ids=["narrow", "middle", "wide"])
@pytest.mark.parametrize("name", VALUES)
def test_values_at_the_ends_are_exact(name, lanes, dtype):
    x, expected = np.array(VALUES[name], dtype).T
    assert bits(evaluate(name, x, LANES[dtype][lanes])).tolist() == bits(expected.copy()).tolist()


@every_dtype
def test_the_smallest_numbers_keep_their_value_and_sign_in_tanh(dtype):
    x = np.array([TINY[dtype], -TINY[dtype], 3 * TINY[dtype], -1e-30], dtype)
    assert bits(evaluate("tanh", x)).tolist() == bits(x).tolist()


@every_dtype
@pytest.mark.parametrize("name", VALUES)
def test_nan_stays_nan(name, dtype):
    signs = np.array([NAN, math.copysign(NAN, -1), 1.0, NAN, 2.0], dtype)
    assert np.isnan(evaluate(name, signs)).tolist() == [True, True, False, True, False]


@every_dtype
def test_relus_gradient_is_zero_where_its_output_is(dtype):
    lanes = LANES[dtype][-1]
    vector, gradient = vectors(dtype, lanes), functions.relu_gradient
    load, store = vector.load, vector.store

    @njit
    def evaluate_gradient(h, dh, out):
        count = len(h)
        value = gradient(load(h.ctypes.data, count), load(dh.ctypes.data, count))
        store(out.ctypes.data, count, value)

    cases = [(1.0, -3.0, -3.0), (0.0, 3.0, 0.0), (-0.0, 3.0, 0.0), (NAN, 3.0, 3.0), (INF, 3.0, 3.0), (0.0, NAN, 0.0)]
    h, dh, expected = (np.array(column, dtype) for column in zip(*cases, strict=True))
    out = np.full_like(h, 7)
    evaluate_gradient(h, dh, out)
    assert bits(out).tolist() == bits(expected).tolist()


# Width


@every_dtype
@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_have_the_same_bits_for_every_width(name, dtype):
    x = np.concatenate([sample(dtype, mantissas=7), np.array([INF, -INF, NAN], dtype)])[:-1]
    values = {lanes: bits(evaluate(name, x, lanes)) for lanes in LANES[dtype]}
    narrow, middle, wide = values.values()
    assert len(x) % LANES[dtype][-1]  # the last vector is not full
    np.testing.assert_array_equal(middle, narrow)
    np.testing.assert_array_equal(wide, narrow)


# The judge itself


def test_the_judge_needs_nothing_that_others_import():
    judged_alone = "[judge(name, [(0x3F800000, 9)]).good for name in ('sigmoid', 'tanh')]"
    program = f"from bench.elementary import judge; print({judged_alone})"
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[True, True]\n"


def test_the_judge_finds_errors_falls_and_numbers_for_nan(monkeypatch):
    """2 - x, and 0 for NaN, where 2 - 1.0000004·x is expected."""

    @njit
    def falling(x):
        return select_less(x, INF, 2.0 - x, 0.0)

    monkeypatch.setitem(judged.FUNCTIONS, "falling", (falling, njit(lambda x: 2.0 - 1.0000004 * x)))
    one, least_nan = 0x3F800000, INFINITY + 1
    verdict = judge("falling", [(one, 5), (least_nan, 3)])
    assert verdict == Verdict(
        error=pytest.approx(6.71, abs=0.01), worst=one + 4, falls=4, falls_at=one + 4, not_nan=least_nan + 2
    )


@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("--nonsense", 2)])
def test_the_judge_takes_no_options(argument, status, monkeypatch):
    monkeypatch.setattr(judged, "judge", None)  # would be called
    with pytest.raises(SystemExit) as ended:
        judged.main([argument])
    assert ended.value.code == status
