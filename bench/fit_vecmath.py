"""Print the numbers that csrc/cpu/vecmath.h contains.

All three functions rest on one even function of the reduced argument |r| <= ln(2) / 2,

    C(r) = (r / 2) coth(r / 2) = 1 + r^2 / 12 - r^4 / 720 + ...

because exp(r) = (C + r/2) / (C - r/2). The polynomial 1 + c1 r^2 + c2 r^4 + ... has the least
largest relative error on that interval (Remez' exchange algorithm, 60 digits).

Run ``python bench/fit_vecmath.py``; needs mpmath.
"""

import functools
from collections.abc import Callable

import mpmath as mp

mp.mp.dps = 60

Polynomial = list[mp.mpf]


def c_of_square(z: mp.mpf) -> mp.mpf:
    """C as a function of z = r^2."""
    half = mp.sqrt(z) / 2
    return half * mp.coth(half)


def evaluate(c: Polynomial, z: mp.mpf) -> mp.mpf:
    """1 + c1 z + c2 z^2 + ... for c = [c1, c2, ...]."""
    return 1 + z * mp.polyval(c[::-1], z)


def relative_error(c: Polynomial, z: mp.mpf) -> mp.mpf:
    """How far the polynomial is from C."""
    return evaluate(c, z) / c_of_square(z) - 1


def extrema(error: Callable[[mp.mpf], mp.mpf], z_max: mp.mpf, n: int) -> list[mp.mpf]:
    """Return the n places of alternating sign where the error is largest."""
    grid = [z_max * (1 - mp.cos(mp.pi * k / 800)) / 2 for k in range(1, 801)]
    found: list[tuple[mp.mpf, mp.mpf]] = []
    for z in grid:
        e = error(z)
        if found and mp.sign(found[-1][1]) == mp.sign(e):
            found[-1] = max(found[-1], (z, e), key=lambda point: abs(point[1]))
        else:
            found.append((z, e))
    while len(found) > n:
        found.pop(0 if abs(found[0][1]) < abs(found[-1][1]) else -1)
    return [z for z, _ in found]


def remez(degree: int, z_max: mp.mpf) -> tuple[Polynomial, mp.mpf]:
    """Return the minimax coefficients c1..c_degree and their largest relative error."""
    n = degree + 1
    places = [z_max * (1 + mp.cos(mp.pi * (2 * k + 1) / (2 * n))) / 2 for k in range(n)][::-1]
    for _ in range(20):
        # sum_j c_j z^j - C(z) + 1 = +-E C(z), with alternating sign, at the n places
        equations = mp.matrix(n, n)
        right = mp.matrix(n, 1)
        for i, z in enumerate(places):
            for j in range(degree):
                equations[i, j] = z ** (j + 1)
            equations[i, degree] = (-1) ** i * c_of_square(z)
            right[i] = c_of_square(z) - 1
        c = list(mp.lu_solve(equations, right))[:degree]
        places = extrema(functools.partial(relative_error, c), z_max, n)
    return c, max(abs(relative_error(c, z)) for z in places)


def rounded(x: mp.mpf, bits: int) -> mp.mpf:
    """X to the nearest number with `bits` significant bits."""
    mantissa, exponent = mp.frexp(x)
    return mp.ldexp(mp.nint(mp.ldexp(mantissa, bits)), exponent - bits)


def show(name: str, x: mp.mpf) -> None:
    """Print a number that a double holds exactly, in the two notations of C++."""
    print(f"  {name:8} {float(x).hex():28} {mp.nstr(x, 17)}")


def constants(name: str, bits: int, multiplier_bits: int, degree: int) -> None:
    """Print one type's constants; n in x - n ln(2) has at most `multiplier_bits` bits."""
    ln2 = mp.log(2)
    # r may pass ln(2) / 2 a little: x log2(e) is itself rounded before it is rounded to whole.
    c, error = remez(degree, (ln2 / 2 * (1 + mp.mpf(10) ** -4)) ** 2)
    ln2_hi = rounded(ln2, bits - multiplier_bits)  # so that n ln2_hi is exact
    print(f"{name}: C within {mp.nstr(error * 2**bits, 2)} * 2^-{bits}")
    show("log2e", rounded(1 / ln2, bits))
    show("ln2", rounded(ln2, bits))
    show("ln2_hi", ln2_hi)
    show("ln2_lo", rounded(ln2 - ln2_hi, bits))
    for k, c_k in enumerate(c, start=1):
        show(f"c[{k}]", rounded(c_k, 53))


if __name__ == "__main__":
    constants("float", bits=24, multiplier_bits=8, degree=2)
    constants("double", bits=53, multiplier_bits=11, degree=5)
