"""reverse_step: bits as on the eager backend; with a learned variance, within the bound of the reference."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from laws import log_alpha_bar
from noisestep.accelerated.address import REVERSE
from noisestep.accelerated.ops import noise, reverse_step
from noisestep.accelerated.ops.checks import compute_dtype
from noisestep.reference import reverse as reference
from noisestep.reference.prediction import predict_x_0
from op_cases import UNIT, Case, assert_within, float64, gamma
from torch import Tensor

from .description import (
    ADDRESS,
    BOTH,
    FLOATS,
    GIVEN_EPS,
    LAYOUTS,
    PLACE,
    PREDICTION,
    SCALARS,
    Description,
    in_tensors,
)


@dataclass(frozen=True)
class Update:
    """The options of one update."""

    prediction: str = "eps"
    clip: tuple[float, float] | None = None
    variance: str = "posterior"
    eta: float | None = None
    rederive_eps: bool = True
    guidance: float | None = None
    temperature: float = 1.0
    return_x_0: bool = False

    @property
    def learned(self) -> bool:
        return self.variance == "learned_range" and self.eta is None

    def fitting(self, case: Case) -> "Update":
        """The same, but with v where eps says nothing of x_0, and no learned variance where there are no channels."""
        update = self
        if not case.sees_signal and self.prediction == "eps":
            update = replace(update, prediction="v")
        if len(case.shape) < 2 and self.learned:
            update = replace(update, variance="posterior")
        return update


def timesteps(case: Case) -> Tensor:
    """In 1..T, one for each sample."""
    return torch.randint(1, case.T + 1, case.shape[:1], generator=torch.Generator().manual_seed(1)).to(case.device)


def arguments(case: Case, update: Update, eps_dtype: str | None = None, *, joined: bool = False) -> tuple:
    """(schedule, x_t, output, t, noise) for an update; t is 1 or more where the variance is learned."""
    shape = case.shape
    if update.learned:
        shape = (shape[0], 2 * shape[1], *shape[2:])
    output = case.tensor(2, shape=shape)
    if update.guidance is not None:
        output = output, case.tensor(3, shape=shape)
        output = case.arranged(torch.cat(output)) if joined else output
    eps = case.noise() if eps_dtype is None else case.tensor(4, dtype=getattr(torch, eps_dtype))
    t = timesteps(case) if update.learned else case.t()
    return case.device_schedule, case.tensor(1), output, t, eps


def wide(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *(1,) * (x.ndim - 1))


def assert_near_the_reference(result: Any, inputs: tuple, update: Update) -> None:
    """x_{t-1} and x_0 are within the bounds of docs/ops.md; the inputs are those of `arguments`."""
    schedule, x_t, output, t, eps = inputs
    x_s, x_0 = result if update.return_x_0 else (result, None)
    if update.clip is None and x_t.dtype == torch.float16:
        # half of all numbers have no room for x_0 as it is at the noisy end
        x_0 = None
    unit, table, steps = UNIT[compute_dtype(x_t)], schedule.schedule, t.expand(x_t.shape[:1]).numpy()
    z = eps.to(compute_dtype(x_t)) if isinstance(eps, Tensor) else noise(eps, x_t.shape)
    x, z = float64(x_t, update.temperature * z.double())
    exact = UNIT[torch.float64]
    # the difference of the two outputs, the scale and its product, and the sum
    guided = 0 if update.guidance is None else 4
    if update.guidance is None:
        (out,) = float64(output)
        size = np.abs(out)
    else:
        without, out = float64(*(output.chunk(2) if isinstance(output, Tensor) else output))
        size = np.abs(without) + abs(update.guidance) * (np.abs(out) + np.abs(without))
        out = reference.guided(out, without, update.guidance)
    spread, logarithm = 0.0, 0.0
    if update.learned:
        channels = x.shape[1]
        share, share_size = (out[:, channels:] + 1) / 2, (1 + size[:, channels:]) / 2
        out, size = out[:, :channels], size[:, :channels]
        half_beta = wide(np.log(table.beta[steps]) / 2, x)
        half_posterior = wide(table.posterior_log_variance[steps] / 2, x)
        # the share, and what it weighs: the table, 1 - share, the product, the sum
        spread = gamma(guided + 2, unit) * share_size * (np.abs(half_beta) + np.abs(half_posterior))
        spread += gamma(4, unit) * (np.abs(share * half_beta) + np.abs((1 - share) * half_posterior))
        logarithm = np.abs(share * half_beta + (1 - share) * half_posterior)
        # a library's exponential: 4 units, and twice the rounding of an argument that it may scale first
        spread += (8 + 2 * logarithm) * unit
        variance = reference.learned_range_variance(table, share, steps)
    else:
        variance = update.variance
    options = dict(prediction=update.prediction, clip=update.clip)
    if update.eta is None:
        expected = reference.reverse_step(table, x, out, steps, z, variance=variance, **options)
    else:
        ddim = dict(eta=update.eta, rederive_eps=update.rederive_eps)
        expected = reference.ddim_step(table, x, out, steps, z, **ddim, **options)
    c = reference.reverse_coefficients(
        table,
        prediction=update.prediction,
        variance="posterior" if update.learned else update.variance,
        eta=update.eta,
        rederive_eps=update.rederive_eps,
    )
    c = [wide(column, x) for column in c[steps].T]
    sigma = np.where(wide(steps, x) > 1, np.sqrt(variance), 0) if update.learned else c[5]
    added = np.abs(sigma * z)
    of_x_0 = np.abs(c[0] * x) + np.abs(c[1]) * size
    # two coefficients and products, and their sum
    x_0_error = gamma(3 + guided, unit) * of_x_0
    if update.clip is None:
        terms = np.abs((c[2] * c[0] + c[3]) * x) + np.abs(c[2] * c[1] + c[4]) * size
        error = gamma(4 + guided, unit) * terms
    else:
        low, high = update.clip
        x_0_error = np.minimum(x_0_error, high - low) + unit * max(abs(low), abs(high))
        terms = np.abs(c[2]) * max(abs(low), abs(high)) + np.abs(c[3] * x) + np.abs(c[4]) * size
        error = np.abs(c[2]) * x_0_error + gamma(5 + guided, unit) * terms
    # the table, z, its product and the sum; a temperature, and its product
    heated = 0 if update.temperature == 1 else 2
    error = error + added * (np.exp(spread) * (1 + gamma(4 + heated, unit)) - 1)
    # the reference's own rounding, and how far alpha_bar_t, a sum of T logarithms, is from alpha_t alpha_bar_{t-1}
    own = gamma((16 + 8 * table.T) * (1 + log_alpha_bar(table).max()), exact)
    expanded = np.abs(c[2]) * of_x_0 + np.abs(c[3] * x) + np.abs(c[4]) * size + (1 + logarithm) * added
    assert_within(actual=x_s, expected=expected, error=error + own * expanded)
    if x_0 is not None:
        expected = predict_x_0(table, x, out, steps, prediction=update.prediction, clip=update.clip)
        assert_within(actual=x_0, expected=expected, error=x_0_error + own * of_x_0)


def numbers(case: Case, update: Any, scalars: str) -> dict[str, Any]:
    """The clip, guidance and temperature of an update as `SCALARS` has them."""
    # the bound of a learned variance is that of one number for all
    unequal = 0.0 if update.learned else 0.125
    if update.learned and scalars != "numbers":
        scalars = f"float64 for {scalars.split()[2]}"
    made = {"temperature": in_tensors(case, scalars, update.temperature, spread=unequal)}
    if update.guidance is not None:
        made["guidance"] = in_tensors(case, scalars, update.guidance, spread=-unequal)
    if update.clip is not None:
        low, high = update.clip
        # a Python number beside a tensor
        made["clip"] = low, in_tensors(case, scalars, high, spread=unequal)
        if scalars.endswith("each"):
            made["clip"] = in_tensors(case, scalars, low, spread=-unequal), made["clip"][1]
    return made


def _update(case: Case, options: dict[str, Any]) -> tuple[Update, dict[str, Any]]:
    """The update that the options say, and the rest of them."""
    options = dict(options)
    rest = {name: options.pop(name) for name in ("eps_dtype", "joined", "in_place", "scalars") if name in options}
    return Update(**options).fitting(case), rest


def _prepare(case: Case, **options: Any) -> tuple[tuple, dict]:
    update, rest = _update(case, options)
    scalars = rest.pop("scalars", "numbers")
    keywords = vars(update) | numbers(case, update, scalars) | {"in_place": rest.pop("in_place", False)}
    return arguments(case, update, **rest), keywords


def _exact(case: Case, **options: Any) -> bool:
    # the exponential of a learned variance is a library's: bits may differ, the bound may not
    return not _update(case, options)[0].learned


def _near(actual: Any, case: Case, **options: Any) -> None:
    update, rest = _update(case, options)
    if update.learned:
        rest.pop("in_place", None), rest.pop("scalars", None)
        assert_near_the_reference(actual, arguments(case, update, **rest), update)


# as a chain has it: the step is t, in a tensor
_CHAIN: dict[str, Any] = {"stream": REVERSE, "in_tensors": "step"}
_CLIPPED = {**_CHAIN, "clip": (-1.0, 1.0)}

Description(
    "reverse_step",
    reverse_step,
    _prepare,
    {
        **PLACE,
        "dtype": FLOATS,
        "layout": LAYOUTS,
        **ADDRESS,
        **GIVEN_EPS,
        **PREDICTION,
        "variance": ("posterior", "learned_range", "beta", "zero"),
        "eta": (None, None, 0.0, 0.3, 1.0),
        "clip": (None, (-1, 1), (-0.3, 0.7)),
        "rederive_eps": (True, False),
        "guidance": (None, 7.5, 0.0),
        "temperature": (1.0, 0.5),
        **SCALARS,
        "joined": BOTH,
        "return_x_0": BOTH,
        "in_place": BOTH,
    },
    near=_near,
    exact=_exact,
    counted={
        "reverse_step, β variance": {**_CHAIN, "variance": "beta"},
        "reverse_step, clipped, posterior variance": _CLIPPED,
        "reverse_step, clipped, guided": {**_CLIPPED, "guidance": 3.0},
        "reverse_step, clipped, learned variance": {**_CLIPPED, "variance": "learned_range"},
    },
    budgets={
        "reverse_step, β variance": {"bfloat16": 42, "float32": 45},
        "reverse_step, clipped, posterior variance": {"bfloat16": 46, "float32": 48},
    },
    timed={**_CLIPPED, "one_t": True},
)
