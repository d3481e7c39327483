"""What the tests of the reference share: a comparison with a derived bound, and schedules of every kind."""

import numpy as np
from hypothesis import strategies as st
from noisestep.reference import BETA_SCHEDULES, Schedule

EPS = float(np.finfo(np.float64).eps)

# every schedule by name, and again rescaled to zero terminal SNR; "jsd" and "flow" are there already
NAMED = [(name, zero) for name in BETA_SCHEDULES for zero in (False, True) if not (zero and name in ("jsd", "flow"))]


def assert_close(*, actual, expected, roundings, scale=None):
    """|actual - expected| <= roundings * eps * scale, where scale is |expected| unless cancellation calls for more."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shapes {actual.shape} and {expected.shape}"
    bound = roundings * EPS * np.asarray(np.abs(expected) if scale is None else scale)
    off = np.abs(actual - expected)
    # written so that a NaN on either side is outside
    outside = ~((off <= bound) | (actual == expected))
    assert not outside.any(), (
        f"{outside.sum()} of {outside.size} outside; worst {np.nanmax(off / np.maximum(bound, 1e-300)):.3g} bounds off"
    )


@st.composite
def betas(draw, max_size=40):
    """beta_1 .. beta_T over twelve orders of magnitude."""
    exponents = draw(st.lists(st.floats(-12, -0.05), min_size=1, max_size=max_size))
    return 10.0 ** np.array(exponents)


@st.composite
def schedules(draw, max_size=40):
    """Schedules of any betas, and of some published ones."""
    if draw(st.booleans()):
        return Schedule(draw(betas(max_size)))
    name, zero = draw(st.sampled_from(NAMED))
    # below 21 steps the linear ends scaled by 1000/T would leave (0, 1), below 2 nothing can be rescaled
    return Schedule.from_name(name, draw(st.integers(2, max_size)), zero_terminal_snr=zero)


def log_alpha_bar(schedule):
    """|log alpha_bar_t|: eps times it is the relative rounding error of an exponential of it."""
    with np.errstate(divide="ignore"):
        return np.minimum(np.abs(np.log(schedule.alpha_bar)), 745)
