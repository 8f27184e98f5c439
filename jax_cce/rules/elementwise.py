"""Elementwise primitives: one line each, the partial derivatives as functions of x, y and out.

At kinks and limits the partials follow JAX's own conventions: a tie of max or min gives half to
each side, abs has derivative sign(x), and so on.
"""

from typing import Any

from jax import lax

from jax_cce import jax_internals
from jax_cce.jax_internals import Literal
from jax_cce.program.flat import Equation
from jax_cce.rules.book import EACH, Linear, Wild, describe
from jax_cce.rules.definers import elementwise, elementwise_rule, full


def _like(x: Any, value: float) -> Any:
    return jax_internals.number_like(x, value)


def _reciprocal(y: Any) -> Any:
    if isinstance(y, (int, float, complex)):
        return 1 / y if y else float("inf")
    return lax.div(_like(y, 1), y)


def _choice(chosen: Any, x: Any, out: Any, y: Any) -> Any:
    """The share of max or min that operand x gets: 1, 0, or a half at a tie.

    The operands are compared, not an operand with the result: XLA may compute an operand again for
    the comparison, rounded otherwise than in the result, and neither would be equal to that.
    """
    one, half, zero = (lax.full_like(out, share) for share in (1, 0.5, 0))
    if jax_internals.is_complex(out):
        return lax.select(lax.eq(x, out), lax.select(lax.eq(y, out), half, one), zero)
    return lax.select(chosen(x, y), one, lax.select(lax.eq(x, y), half, zero))


def _larger(x: Any, out: Any, y: Any) -> Any:
    return _choice(lax.gt, x, out, y)


def _smaller(x: Any, out: Any, y: Any) -> Any:
    return _choice(lax.lt, x, out, y)


def _power_of_base(x: Any, y: Any) -> Any:
    if x.dtype == y.dtype:
        return lax.mul(y, lax.pow(x, lax.sub(y, _like(y, 1))))
    # An integer exponent: x**0 is constant, also at x = 0.
    zero = lax.eq(y, _like(y, 0))
    safe = lax.select(zero, lax.full_like(y, 1), y)
    slope = lax.mul(jax_internals.convert(safe, x.dtype), lax.pow(x, lax.sub(safe, _like(y, 1))))
    return lax.mul(slope, jax_internals.convert(lax.bitwise_not(zero), x.dtype))


def _power_of_exponent(x: Any, out: Any) -> Any:
    base = lax.select(lax.eq(x, lax.full_like(x, 0)), lax.full_like(x, 1), x)
    return lax.mul(lax.log(base), out)


def _integer_power(x: Any, params: Any) -> Any:
    n = params["y"]
    if n in (0, 1):
        return lax.full_like(x, n)
    return lax.mul(_like(x, n), x if n == 2 else lax.integer_pow(x, n - 1))


def _abs(x: Any) -> Any:
    one = lax.full_like(x, 1)
    return lax.select(lax.ge(x, lax.full_like(x, 0)), one, lax.neg(one))


def _tanh(x: Any, out: Any, params: Any) -> Any:
    if params["accuracy"] is not lax.AccuracyMode.HIGHEST:
        return lax.mul(lax.add(_like(out, 1), out), lax.sub(_like(out, 1), out))
    # Without the cancellation at large |x|.
    sides = lax.mul(_logistic(lax.mul(_like(x, 2), x)), _logistic(lax.mul(_like(x, -2), x)))
    return lax.mul(_like(x, 4), sides)


def _logistic(x: Any) -> Any:
    return lax.logistic(x, accuracy=lax.AccuracyMode.HIGHEST)


def _logistic_slope(x: Any, out: Any, params: Any) -> Any:
    if params["accuracy"] is not lax.AccuracyMode.HIGHEST:
        return lax.mul(out, lax.sub(_like(out, 1), out))
    return lax.mul(out, _logistic(lax.neg(x)))


def _square_sum(x: Any, y: Any) -> Any:
    return lax.add(lax.mul(x, x), lax.mul(y, y))


def _one_minus_square(x: Any) -> Any:
    return lax.sub(_like(x, 1), lax.mul(x, x))


def _one_plus_square(x: Any) -> Any:
    return lax.add(_like(x, 1), lax.mul(x, x))


def _derivative_of_acosh(x: Any) -> Any:
    # Two roots, so that it is NaN wherever the function is.
    one = _like(x, 1)
    return lax.mul(lax.rsqrt(lax.sub(x, one)), lax.rsqrt(lax.add(x, one)))


def _rem_of_divisor(x: Any, y: Any) -> Any:
    quotient = lax.div(x, y)
    return lax.neg(lax.mul(lax.sign(quotient), lax.floor(lax.abs(quotient))))


def _wild_quotient(equation: Equation) -> Wild:
    divisor = equation.inputs[1]
    return Wild.TAME if isinstance(divisor, Literal) and divisor.val else Wild.SINGULAR


def _wild_power(equation: Equation) -> Wild:
    return Wild.SINGULAR if equation.params["y"] < 0 else Wild.TAME


_TWO_OVER_ROOT_PI = 1.1283791670955126
_LOG_TWO = 0.6931471805599453

elementwise("add", 1, 1)
elementwise("add_any", 1, 1)
elementwise("sub", 1, -1)
elementwise("neg", -1)
elementwise("mul", lambda y: y, lambda x: x, fold=True, linear=EACH)
elementwise(
    "div",
    _reciprocal,
    lambda y, out: lax.neg(lax.div(out, y)),
    fold=True,
    linear=Linear((0,)),
    wild=_wild_quotient,
)
elementwise("integer_pow", _integer_power, wild=_wild_power)
elementwise("pow", _power_of_base, _power_of_exponent, wild=Wild.SINGULAR)
elementwise("square", lambda x: lax.mul(_like(x, 2), x))
elementwise("sqrt", lambda out: lax.div(_like(out, 0.5), out), wild=Wild.SINGULAR)
elementwise("rsqrt", lambda x, out: lax.mul(_like(x, -0.5), lax.div(out, x)), wild=Wild.SINGULAR)
elementwise("exp", lambda out: out, wild=Wild.LARGE)
elementwise("expm1", lambda out: lax.add(out, _like(out, 1)), wild=Wild.LARGE)
elementwise("log", lambda x: lax.div(_like(x, 1), x), wild=Wild.SINGULAR)
elementwise("log1p", lambda x: lax.div(_like(x, 1), lax.add(x, _like(x, 1))), wild=Wild.SINGULAR)
elementwise("sin", lambda x: lax.cos(x))
elementwise("cos", lambda x: lax.neg(lax.sin(x)))
elementwise("tan", lambda out: _one_plus_square(out), wild=Wild.SINGULAR)
elementwise("asin", lambda x: lax.rsqrt(_one_minus_square(x)), wild=Wild.SINGULAR)
elementwise("acos", lambda x: lax.neg(lax.rsqrt(_one_minus_square(x))), wild=Wild.SINGULAR)
elementwise("atan", lambda x: lax.div(_like(x, 1), _one_plus_square(x)))
elementwise(
    "atan2",
    lambda x, y: lax.div(y, _square_sum(x, y)),
    lambda x, y: lax.neg(lax.div(x, _square_sum(x, y))),
    wild=Wild.SINGULAR,
)
elementwise("sinh", lambda x: lax.cosh(x), wild=Wild.LARGE)
elementwise("cosh", lambda x: lax.sinh(x), wild=Wild.LARGE)
elementwise("asinh", lambda x: lax.rsqrt(_one_plus_square(x)))
elementwise("tanh", _tanh)
elementwise("logistic", _logistic_slope)
elementwise("abs", _abs)
elementwise("max", _larger, lambda x, out, y: _larger(y, out, x))
elementwise("min", _smaller, lambda x, out, y: _smaller(y, out, x))
elementwise(
    "erf",
    lambda x: lax.mul(_like(x, _TWO_OVER_ROOT_PI), lax.exp(lax.neg(lax.mul(x, x)))),
)
elementwise(
    "erfc",
    lambda x: lax.mul(_like(x, -_TWO_OVER_ROOT_PI), lax.exp(lax.neg(lax.mul(x, x)))),
    wild=Wild.LARGE,
)
elementwise("exp2", lambda out: lax.mul(_like(out, _LOG_TWO), out), wild=Wild.LARGE)
elementwise("ceil floor round sign stop_gradient", None)
elementwise("copy copy_p", 1)
elementwise("acosh", _derivative_of_acosh, wild=Wild.SINGULAR)
elementwise("atanh", lambda x: lax.div(_like(x, 1), _one_minus_square(x)), wild=Wild.SINGULAR)
elementwise("cbrt", lambda out: lax.div(_like(out, 1 / 3), lax.square(out)), wild=Wild.SINGULAR)
elementwise("lgamma", lambda x: lax.digamma(x), wild=Wild.SINGULAR)
elementwise("digamma", lambda x: lax.polygamma(_like(x, 1), x), wild=Wild.SINGULAR)
elementwise("rem", lambda x: lax.full_like(x, 1), _rem_of_divisor, wild=Wild.SINGULAR)
elementwise("erf_inv log2", wild=Wild.SINGULAR)

# Arrays that carry a name stay whole.
full("name", elementwise_rule(1), linear=Linear())

# On complex values these are linear over the reals only.
for name in ("abs", "sign"):
    describe(name, holomorphic=False)
