"""The tables of a `Schedule` on a device, rounded once."""

import itertools
from typing import Literal, Self

import numpy as np
import torch
from noisestep.reference.jumps import Jumps
from noisestep.reference.reverse import reverse_coefficients
from noisestep.reference.schedule import LOG_VARIANCE_FLOOR, Schedule
from numpy.typing import ArrayLike
from torch import Tensor

Prediction = Literal["eps", "x_0", "v"]
Variance = Literal["beta", "posterior", "zero", "learned_range"]

# columns of a reverse table; see DeviceSchedule.reverse_table
COLUMNS = 13


_numbers = itertools.count()


class DeviceSchedule:
    """A schedule's tables as tensors on one device, each computed in float64 and rounded once.

    Rows are picked on the device by a tensor of timesteps, so that no step of a loop reads a value
    back to the host. Tables of an update are made when they are first asked for, and kept.

    Parameters
    ----------
    schedule : Schedule
        The reference's tables, possibly respaced.
    device : torch.device or str
        Where the tables live.
    previous : array_like of int, shape (T,), optional
        The step that a reverse update from each of 1..T leads to (`noisestep.reference.jumps.Jumps`); t - 1 if left
        out. For a chain with gaps, respace the schedule; this is for chains that share the timesteps of the whole.

    Attributes
    ----------
    schedule : Schedule
    device : torch.device
    T : int
        Steps; t counts 1..T, and row 0 of a table is clean data.
    timesteps : Tensor of int64, shape (T + 1,)
        What the network is told at each step.

    Raises
    ------
    TypeError
        If `schedule` is not a `Schedule`.
    """

    def __init__(
        self, schedule: Schedule, device: torch.device | str = "cpu", *, previous: ArrayLike | None = None
    ) -> None:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a noisestep.reference Schedule, got {type(schedule).__name__}")
        self.schedule = schedule
        # what a compiled graph knows a schedule by: its tables are constants there
        self._number = str(next(_numbers))
        self.device = torch.device(device)
        self.previous = None if previous is None else Jumps(schedule, previous).to
        self.T = schedule.T
        self.timesteps = torch.from_numpy(schedule.timesteps.copy()).to(self.device)
        marginal = np.stack([schedule.sqrt_alpha_bar, schedule.sqrt_one_minus_alpha_bar], axis=-1)
        self._tables: dict[object, Tensor] = {}
        # the forward table is always wanted, and made here so that a compiled graph finds it
        for dtype in (torch.float32, torch.float64):
            self._tables["forward", dtype] = self._on_device(marginal, dtype)

    def forward_table(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), the coefficients of q(x_t | x_0).

        Parameters
        ----------
        dtype : torch.dtype
            float32 or float64, the type that the op computes in.

        Returns
        -------
        Tensor, shape (T + 1, 2)
        """
        return self._tables["forward", dtype]

    def reverse_table(
        self,
        *,
        prediction: Prediction = "eps",
        variance: Variance = "posterior",
        eta: float | None = None,
        rederive_eps: bool = True,
        clip: tuple[float, float] | None = None,
        guidance: float | None = None,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Every number that one reverse step needs (`noisestep.reference.reverse.reverse_coefficients`).

        Parameters
        ----------
        prediction : {"eps", "x_0", "v"}
        variance : {"beta", "posterior", "zero", "learned_range"}
        eta : float or None
            None for the chapter's update; a number in [0, 1] for DDIM, which ignores `variance`.
        rederive_eps : bool
            DDIM: eps follows from the clipped x_0 (True), or is the network's (False).
        clip : (float, float), optional
            The range of the predicted x_0.
        guidance : float, optional
            The scale of classifier-free guidance.
        temperature : float
            What the fresh noise is multiplied by, at least 0.
        dtype : torch.dtype
            float32 or float64, the type that the op computes in.

        Returns
        -------
        Tensor, shape (T + 1, 13)
            Columns 0 to 5: c_0 .. c_5 of x_0 = c_0 x_t + c_1 output, x_{t-1} = c_2 x_0 + c_3 x_t + c_4 output + c_5 z.
            6 and 7: c_2 c_0 + c_3 and c_2 c_1 + c_4, the same update when nothing is clipped.
            8 and 9: log(beta_t) / 2 and log(posterior variance) / 2, between which a learned variance lies; with
            one, c_5 is 1, or 0 where the update leads to step 0. 10: the guidance scale. 11 and 12: the range of x_0.

        Raises
        ------
        ValueError
            For an unknown option, with those allowed.
        """
        return self._kept_table(
            self._number, prediction, variance, eta, rederive_eps, clip, guidance, temperature, dtype
        )

    def is_noisy(self, *, variance: Variance = "posterior", eta: float | None = None) -> bool:
        """Whether any step of an update adds noise; the arguments are those of `reverse_table`.

        Returns
        -------
        bool
        """
        if eta is not None:
            return eta > 0
        return variance != "zero"

    def to(self, device: torch.device | str) -> Self:
        """The same schedule on another device.

        Parameters
        ----------
        device : torch.device or str

        Returns
        -------
        DeviceSchedule
            Itself where it is there already.
        """
        if torch.device(device) == self.device:
            return self
        return type(self)(self.schedule, device, previous=self.previous)

    def _on_device(self, table: np.ndarray, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(table).to(dtype).to(self.device)

    def _kept_table(
        self,
        number: str,
        prediction: Prediction,
        variance: Variance,
        eta: float | None,
        rederive_eps: bool,
        clip: tuple[float, float] | None,
        guidance: float | None,
        temperature: float,
        dtype: torch.dtype,
    ) -> Tensor:
        tables = self._tables
        key = ("reverse", prediction, variance, eta, rederive_eps, clip, guidance, temperature, dtype)
        if key not in tables:
            columns = _reverse_columns(self.schedule, self.previous, prediction, variance, eta, rederive_eps)
            columns[5] = temperature * columns[5]
            low, high = (0.0, 0.0) if clip is None else clip
            for value in (1.0 if guidance is None else guidance, low, high):
                columns.append(np.full(self.T + 1, value))
            tables[key] = self._on_device(np.stack(columns, axis=-1), dtype)
        return tables[key]

    # a compiled function runs it once and keeps what it returned
    _kept_table._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"DeviceSchedule({self.schedule!r}, device={str(self.device)!r})"


def _reverse_columns(
    schedule: Schedule,
    previous: np.ndarray | None,
    prediction: Prediction,
    variance: Variance,
    eta: float | None,
    rederive_eps: bool,
) -> list[np.ndarray]:
    learned = variance == "learned_range" and eta is None
    c = reverse_coefficients(
        schedule,
        prediction=prediction,
        variance="posterior" if variance == "learned_range" else variance,
        eta=eta,
        rederive_eps=rederive_eps,
        to=previous,
    )
    c_0, c_1, c_2, c_3, c_4, c_5 = c.T
    half_log = np.zeros((2, schedule.T + 1))
    jumps = Jumps(schedule, previous)
    if learned:
        c_5 = np.concatenate([[0.0], np.where(jumps.to > 0, 1.0, 0.0)])
    if previous is None:
        half_log[:, 1:] = np.log(schedule.beta[1:]) / 2, schedule.posterior_log_variance[1:] / 2
    else:
        ends = np.stack([jumps.beta, jumps.posterior_variance])
        half_log[:, 1:] = np.log(np.maximum(ends, LOG_VARIANCE_FLOOR)) / 2
    return [c_0, c_1, c_2, c_3, c_4, c_5, c_2 * c_0 + c_3, c_2 * c_1 + c_4, *half_log]
