"""The tables of a `Schedule` on a device, rounded once."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Generic, Literal, NamedTuple, Self, TypeVar, get_args

import numpy as np
import torch
from noisestep.reference._arguments import real_array, require_eta, require_name
from noisestep.reference.jumps import Jumps
from noisestep.reference.multistep import Memory, prediction_coefficients
from noisestep.reference.prediction import Prediction
from noisestep.reference.reverse import reverse_coefficients
from noisestep.reference.schedule import LOG_VARIANCE_FLOOR, Schedule
from numpy.typing import ArrayLike
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils._python_dispatch import _disable_current_modes

Variance = Literal["beta", "posterior", "zero", "learned_range"]

_T = TypeVar("_T")


def with_index(device: torch.device | str) -> torch.device:
    """A device with its number: "cuda" is the current one, such as "cuda:0". A name must be that of one there is."""
    if not isinstance(device, torch.device):
        device = _named(device)
    if device.index is not None or device.type not in ("cuda", "xpu"):
        return device
    return torch.device(device.type, getattr(torch, device.type).current_device())


def _named(name: object) -> torch.device:
    if not isinstance(name, str):
        raise TypeError(f"device must be a torch.device or the name of one, got {name!r}")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f'device must be the name of a device, such as "cpu" or "cuda:0", got {name!r}') from None
    if device.type in ("cuda", "xpu"):
        count = getattr(torch, device.type).device_count()
        if (device.index or 0) >= count:
            raise ValueError(f"device is {name!r}, and this machine has {count} devices of this kind")
    return device


@contextmanager
def outside_of_modes() -> Iterator[None]:
    """Tensors that are made within are ordinary ones on the CPU: no fakes, functorch wrappers or inference tensors."""
    with (
        torch.inference_mode(False),
        _disable_current_modes(),  # type: ignore[no-untyped-call]
        temporarily_clear_interpreter_stack(),
        torch.device("cpu"),
    ):
        yield


def constant(values: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An array as a tensor that every later call can use, whatever mode it is made in."""
    with outside_of_modes():
        return torch.from_numpy(values).to(dtype).to(device)


class ReverseRow(NamedTuple, Generic[_T]):
    """The columns of a reverse table: every number that one reverse step from t needs."""

    # the prediction of x_0, and the update that follows from it
    x_0_from_x: _T
    x_0_from_out: _T
    from_x_0: _T
    from_x: _T
    from_out: _T
    sigma: _T
    # the same update where nothing is clipped, x_0 put in
    unclipped_from_x: _T
    unclipped_from_out: _T
    # half the logs of the variances between which a learned one lies
    half_log_beta: _T
    half_log_posterior: _T


class StepRow(NamedTuple, Generic[_T]):
    """The columns of a `StepTable`: every number that one linear multistep step needs."""

    # the prediction of x_0
    x_0_from_x: _T
    x_0_from_out: _T
    # the prediction of eps: from a clipped x_0, and where nothing is clipped
    eps_from_x: _T
    eps_from_x_0: _T
    unclipped_eps_from_x: _T
    unclipped_eps_from_out: _T
    # the update; a table of fewer history entries has zeros for the rest
    from_x: _T
    from_prediction: _T
    from_history_1: _T
    from_history_2: _T
    from_history_3: _T
    from_history_4: _T
    sigma: _T


# the number of each column, for the kernels
COLUMNS: ReverseRow[int] = ReverseRow(*range(len(ReverseRow._fields)))
STEP_COLUMNS: StepRow[int] = StepRow(*range(len(StepRow._fields)))

# the most history entries of a step: UniPC's corrector of third order takes an earlier x and three predictions
MOST_HISTORY = 4

# the most tables of updates that a schedule keeps: one has 40 bytes a step in float32
KEPT_TABLES = 64


class Steps:
    """The steps 0..T of a chain on one device.

    Parameters
    ----------
    T : int
    device : torch.device or str

    Attributes
    ----------
    T : int
    device : torch.device
    """

    def __init__(self, T: int, device: torch.device | str) -> None:
        self.T = T
        self.device = with_index(device)
        # t itself in each row t: an integer t is a view of one of them, which costs no copy to the device
        self._t = constant(np.arange(T + 1), torch.int64, self.device)

    def at(self, t: int | torch.SymInt) -> Tensor:
        """An integer t as a tensor on the device, shape (), without a copy to it.

        Raises
        ------
        ValueError
            For a t that has no row.
        """
        if not 0 <= t < len(self._t):
            raise ValueError(f"t must lie in 0..{len(self._t) - 1}, got values from {t} to {t}")
        return self._t[t]


class DeviceSchedule(Steps):
    """A schedule's tables as tensors on one device, each computed in float64 and rounded once.

    Rows are picked on the device by a tensor of timesteps, so that no step of a loop reads a value
    back to the host. Tables of an update are made when they are first asked for, and the last 64 are kept. They are
    ordinary tensors, whether they are made in `torch.inference_mode`, under `torch.export` or in a functorch transform.

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
        Cannot be set, nor can `previous`.
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
        super().__init__(schedule.T, device)
        self._schedule = schedule
        self._previous = None if previous is None else Jumps(schedule, previous).previous
        if self._previous is not None:
            self._previous.flags.writeable = False
        self.timesteps = constant(schedule.timesteps.copy(), torch.int64, self.device)
        # the forward table is always wanted, and made here so that a compiled graph finds it
        marginal = np.stack([schedule.sqrt_alpha_bar, schedule.sqrt_one_minus_alpha_bar], axis=-1)
        self._forward = {dtype: self._on_device(marginal, dtype) for dtype in (torch.float32, torch.float64)}
        self._ones = {dtype: self._on_device(np.ones_like(marginal), dtype) for dtype in (torch.float32, torch.float64)}
        # a table is an attribute: a compiled function finds one that was made while it was traced
        self._reverse = SimpleNamespace()
        self._names: dict[object, str] = {}

    @property
    def schedule(self) -> Schedule:
        """What the tables were made from; for another, make another `DeviceSchedule`."""
        return self._schedule

    @property
    def previous(self) -> np.ndarray | None:
        """The steps that updates lead to, where they were given."""
        return self._previous

    @classmethod
    def from_name(cls, name: str, T: int, *, device: torch.device | str = "cpu", **parameters: Any) -> Self:
        """The tables of a schedule by its name; `parameters` are those of `noisestep.reference.Schedule.from_name`."""
        return cls(Schedule.from_name(name, T, **parameters), device)

    @classmethod
    def from_betas(cls, beta: ArrayLike, *, device: torch.device | str = "cpu") -> Self:
        """The tables of beta_1 .. beta_T, shape (T,), each in (0, 1]."""
        return cls(Schedule(beta), device)

    @classmethod
    def from_alphas_cumprod(cls, alpha_bar: ArrayLike, *, device: torch.device | str = "cpu") -> Self:
        """The tables of alpha_bar_1 .. alpha_bar_T, shape (T,), which do not increase: diffusers' `alphas_cumprod`."""
        return cls(Schedule.from_alpha_bar(alpha_bar), device)

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
        return self._forward[dtype]

    def target_table(self, prediction: Prediction, dtype: torch.dtype = torch.float32) -> Tensor:
        """What multiplies eps and -x_0 in the velocity that a network predicts.

        Parameters
        ----------
        prediction : {"v", "flow"}
        dtype : torch.dtype
            float32 or float64, the type that the op computes in.

        Returns
        -------
        Tensor, shape (T + 1, 2)
        """
        return self._forward[dtype] if prediction == "v" else self._ones[dtype]

    def reverse_table(
        self,
        *,
        prediction: Prediction = "eps",
        variance: Variance = "posterior",
        eta: float | None = None,
        rederive_eps: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Every number that one reverse step needs (`noisestep.reference.reverse.reverse_coefficients`).

        Parameters
        ----------
        prediction : {"eps", "x_0", "v", "flow"}
        variance : {"beta", "posterior", "zero", "learned_range"}
        eta : float or None
            None for the chapter's update; a number in [0, 1] for DDIM, which ignores `variance`.
        rederive_eps : bool
            DDIM: eps follows from the clipped x_0 (True), or is the network's (False).
        dtype : torch.dtype
            float32 or float64, the type that the op computes in.

        Returns
        -------
        Tensor, shape (T + 1, 10)
            The columns are those of `ReverseRow`, in

                x_0 = x_0_from_x x_t + x_0_from_out output,
                x_{t-1} = from_x_0 x_0 + from_x x_t + from_out output + sigma z.

            With a learned variance, sigma is 1, or 0 where the update leads to step 0.

        Raises
        ------
        ValueError
            For an unknown option, with those allowed.
        """
        compiled = torch.compiler.is_compiling()
        if compiled and eta is not None:
            # here, since it brings sympy
            from torch.fx.experimental.symbolic_shapes import guard_scalar

            # a number that a compiled function is given: each eta has a table, and a graph, of its own
            eta = guard_scalar(eta)
        elif eta is not None and type(eta) is not float:
            # tensors of one value would be keys of their own
            eta = require_eta(eta)
        table: Tensor = getattr(self._reverse, self._named(prediction, variance, eta, rederive_eps, dtype, compiled))
        return table

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
        if with_index(device) == self.device:
            return self
        return type(self)(self.schedule, device, previous=self.previous)

    def step_table(
        self, coefficients: ArrayLike, *, prediction: Prediction = "eps", memory: Memory = "x_0"
    ) -> "StepTable":
        """A `StepTable` for a network that was trained on this schedule; `noisestep.accelerated.ops.multistep`.

        Parameters
        ----------
        coefficients : array_like, shape (T + 1, 3 + K), K in 0..4
            Row t: (a, b, c_1, .., c_K, sigma) of the step whose network call is at t, in the order of the update's
            terms; `noisestep.reference.multistep.linear_step`. Finite, sigma at least 0.
        prediction : {"eps", "x_0", "v", "flow"}
            What the network predicts.
        memory : {"x_0", "eps"}
            What D is, which the coefficients multiply and the history keeps.

        Returns
        -------
        StepTable

        Raises
        ------
        ValueError
            For an unknown option, with those allowed; coefficients of another shape or out of range; eps as the
            prediction on a schedule with zero terminal SNR.
        """
        return StepTable(
            prediction_coefficients(self.schedule, prediction), coefficients, memory=memory, device=self.device
        )

    def _on_device(self, table: np.ndarray, dtype: torch.dtype) -> Tensor:
        return constant(table, dtype, self.device)

    def _named(
        self,
        prediction: Prediction,
        variance: Variance,
        eta: float | None,
        rederive_eps: bool,
        dtype: torch.dtype,
        compiled: bool,
    ) -> str:
        """The name of a table among the attributes of `_reverse`, where it is made if it is not there yet."""
        key = (prediction, variance, eta, rederive_eps, dtype)
        try:
            name = self._names.get(key)
        except TypeError:
            raise TypeError(
                "prediction and variance must be names, eta a number or None, and rederive_eps True or False, got "
                f"{prediction!r}, {variance!r}, {eta!r} and {rederive_eps!r}"
            ) from None
        if name is None:
            row = _reverse_columns(self.schedule, self.previous, prediction, variance, eta, rederive_eps)
            name = re.sub(r"\W", "_", f"{prediction}_{variance}_{eta}_{rederive_eps}_{dtype}")
            setattr(self._reverse, name, self._on_device(np.stack(row, axis=-1), dtype))
            self._names[key] = name
            # a function is compiled with all of its tables at once
            while len(self._names) > KEPT_TABLES and not compiled:
                delattr(self._reverse, self._names.pop(next(iter(self._names))))
        return name

    # run while a function is compiled, and not traced
    _named._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"DeviceSchedule({self.schedule!r}, device={str(self.device)!r})"


def _reverse_columns(
    schedule: Schedule,
    previous: np.ndarray | None,
    prediction: Prediction,
    variance: Variance,
    eta: float | None,
    rederive_eps: bool,
) -> ReverseRow[np.ndarray]:
    learned = variance == "learned_range" and eta is None
    c = reverse_coefficients(
        schedule,
        prediction=prediction,
        variance="posterior" if variance == "learned_range" else variance,
        eta=eta,
        rederive_eps=rederive_eps,
        previous=previous,
    )
    x_0_from_x, x_0_from_out, from_x_0, from_x, from_out, sigma = c.T
    half_log = np.zeros((2, schedule.T + 1))
    jumps = Jumps(schedule, previous)
    if learned:
        sigma = np.concatenate([[0.0], np.where(jumps.previous > 0, 1.0, 0.0)])
    if previous is None:
        half_log[:, 1:] = np.log(schedule.beta[1:]) / 2, schedule.posterior_log_variance[1:] / 2
    else:
        ends = np.stack([jumps.beta, jumps.posterior_variance])
        half_log[:, 1:] = np.log(np.maximum(ends, LOG_VARIANCE_FLOOR)) / 2
    return ReverseRow(
        x_0_from_x,
        x_0_from_out,
        from_x_0,
        from_x,
        from_out,
        sigma,
        unclipped_from_x=from_x_0 * x_0_from_x + from_x,
        unclipped_from_out=from_x_0 * x_0_from_out + from_out,
        half_log_beta=half_log[0],
        half_log_posterior=half_log[1],
    )


class StepTable(Steps):
    """The coefficients of a linear multistep step at every t, on one device; `noisestep.accelerated.ops.multistep`.

    For a network that was trained on a `Schedule`, `DeviceSchedule.step_table` makes one. This constructor is for other
    processes. For a flow, x_t = (1 - s) x_0 + s eps at s = s(t), and a network that predicts its velocity eps - x_0,
    row t of `predictions` is (1, -s, 1/s, (s - 1)/s, 1, 1 - s), and Euler's step to s' is s'/s x_t + (1 - s'/s) x_0.

    Row 0 of both tables is not read: t = 0 leaves x_t alone.

    Parameters
    ----------
    predictions : array_like, shape (T + 1, 6)
        Row t: x_0 and eps from x_t and the output, as `noisestep.reference.multistep.prediction_coefficients` has them.
    coefficients : array_like, shape (T + 1, 3 + K), K in 0..4
        Row t: (a, b, c_1, .., c_K, sigma). Finite, sigma at least 0.
    memory : {"x_0", "eps"}
        What D is, which the coefficients multiply and the history keeps.
    device : torch.device or str

    Attributes
    ----------
    history : int
        K, the number of history entries.
    memory : {"x_0", "eps"}
    noisy : bool
        Whether any step adds noise.
    T : int
    device : torch.device

    Raises
    ------
    ValueError
        For another memory, with those allowed, and tables of other shapes or out of range.
    """

    def __init__(
        self,
        predictions: ArrayLike,
        coefficients: ArrayLike,
        *,
        memory: Memory = "x_0",
        device: torch.device | str = "cpu",
    ) -> None:
        require_name("memory", memory, get_args(Memory))
        known, update = real_array("predictions", predictions), real_array("coefficients", coefficients)
        if known.ndim != 2 or known.shape[1] != 6:
            raise ValueError(f"predictions must have shape (T + 1, 6), got {known.shape}")
        rows, most = len(known), 3 + MOST_HISTORY
        if update.ndim != 2 or len(update) != rows or not 3 <= update.shape[1] <= most:
            raise ValueError(f"coefficients must have shape ({rows}, 3) to ({rows}, {most}), got {update.shape}")
        if not np.isfinite(update[1:]).all() or (update[1:, -1] < 0).any():
            raise ValueError("coefficients must be finite, and the last of a row, sigma, at least 0")
        super().__init__(rows - 1, device)
        self.history = update.shape[1] - 3
        self.memory: Memory = memory
        self.noisy = bool((update[1:, -1] > 0).any())
        table = np.zeros((rows, len(StepRow._fields)))
        table[1:, :6] = known[1:]
        table[1:, 6 : 8 + self.history] = update[1:, :-1]
        table[1:, STEP_COLUMNS.sigma] = update[1:, -1]
        table[0, [STEP_COLUMNS.x_0_from_x, STEP_COLUMNS.from_x]] = 1
        # made here so that a compiled graph finds them
        self._tables = {dtype: constant(table, dtype, self.device) for dtype in (torch.float32, torch.float64)}

    def table(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The columns of `StepRow`.

        Parameters
        ----------
        dtype : torch.dtype
            float32 or float64, the type that the op computes in.

        Returns
        -------
        Tensor, shape (T + 1, 13)
        """
        return self._tables[dtype]
