"""A scheduler's tables, with a row for each of its timesteps 0..T - 1."""

from typing import Any, Literal, cast

import numpy as np
import torch
from noisestep.reference.jumps import Jumps
from noisestep.reference.schedule import LOG_VARIANCE_FLOOR, Schedule
from torch import Tensor

from ...address import NOWHERE, NoiseAddress, plain_int
from ...ops.checks import FLOATS, check_address, check_batch, check_device, compute_dtype
from ...ops.registered import OPS
from ...schedule import Prediction, constant
from ..zero_based import ZeroBased

PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
# a schedule of so many steps, each of which half precision happens to have, was rounded to it
_ROUNDED = 16


class Watched:
    """A tensor, and whether it is as it was.

    On a CPU its bytes are compared; on a GPU, where nothing is read, the number of writes that PyTorch counts.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._array = tensor.detach().numpy() if tensor.is_cpu else None
        self._held = self._state()

    def _state(self) -> object:
        if self._array is not None:
            return self.tensor.data_ptr(), self._array.tobytes()
        return None if self.tensor.is_inference() else self.tensor._version

    def changed(self) -> bool:
        return self._state() != self._held


class Chain:
    """What a scheduler's config, ``alphas_cumprod`` and timesteps come to; made once, until one of them changes.

    The schedule is ``alphas_cumprod``. Where it is the product of ``betas``, as it is unless a script has changed it,
    it is computed from them in float64, like all that follows, and rounded once.

    Parameters
    ----------
    scheduler : SchedulerMixin
        A DDPM or DDIM scheduler.
    final : {0, 1}
        The step that the last update leads to, as we count: clean data, or the first step's level of noise.

    Attributes
    ----------
    T : int
        Timesteps.
    noised, solved, reversed : int
        How many of them, from 0, can be noised; have an inverse; and can be left by a step with this prediction.

    Raises
    ------
    TypeError, ValueError
        For an ``alphas_cumprod`` in half precision, or rounded to it.
    """

    def __init__(self, scheduler: Any, final: Literal[0, 1]) -> None:
        config = scheduler.config
        self.prediction = PREDICTIONS[config.prediction_type]
        self.threshold = (config.dynamic_thresholding_ratio, config.sample_max_value) if config.thresholding else None
        self.clip = None
        if config.clip_sample and not config.thresholding:
            self.clip = (-float(config.clip_sample_range), float(config.clip_sample_range))
        log_alpha_bar, beta, alpha_bar = _schedule_of(scheduler)
        sources = [scheduler.alphas_cumprod, scheduler.timesteps, getattr(scheduler, "final_alpha_cumprod", None)]
        self._watched = [Watched(source) for source in sources if source is not None]
        self.T = len(beta)
        # diffusers refuses none of them: the steps that a table can be made for
        self.noised = _leading((alpha_bar >= 0) & (alpha_bar <= 1) & (log_alpha_bar <= 0))
        positive = _leading((beta > 0) & (beta < 1) & (alpha_bar > 0))
        zero = positive == self.T - 1 and bool(beta[-1] == 1)
        self.solved = self.T if zero else positive
        # eps says nothing of x_0 where alpha_bar is 0
        self.reversed = positive if self.prediction == "eps" else self.solved
        self._schedule = None
        if self.reversed:
            self._schedule = Schedule(beta[: self.reversed], zero_terminal_snr=zero and self.reversed == self.T)
        signal = np.exp(log_alpha_bar[: self.noised] / 2)
        noise = np.sqrt(-np.expm1(log_alpha_bar[: self.noised]))
        # what multiplies x_0 and eps in x_t, and in v, which is x_t turned by a right angle; Salimans & Ho 2022, app. D
        self._coefficients = {
            "x_t": np.stack([signal, noise], axis=-1),
            "v": np.stack([-noise, signal], axis=-1),
        }
        # read once: the steps on the host, by which a tensor that is one of scheduler.timesteps is known
        self._timesteps: Tensor = scheduler.timesteps
        self.host = self._timesteps.tolist()
        self._previous = self._steps_before(final)
        self._forward: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}
        self._reverse: dict[torch.device, ZeroBased] = {}
        self._deviations: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def changed(self) -> bool:
        """Whether ``alphas_cumprod``, ``timesteps`` or ``final_alpha_cumprod`` were written to."""
        return any(watched.changed() for watched in self._watched)

    def _steps_before(self, final: int) -> np.ndarray:
        # the next lower step of the chain, for each t of ours in 1..T
        visited = np.unique([t + 1 for t in self.host if t >= 0])
        t = np.arange(1, self.T + 1)
        below = np.searchsorted(visited, t) - 1
        return np.where(below >= 0, visited[below], final)

    def previous(self, t: Tensor) -> Tensor:
        """The step that follows t in the chain, -1 after the last; both as diffusers counts."""
        return (torch.from_numpy(self._previous) - 1).to(t.device)[t]

    def leads_to_data(self, t: int) -> bool:
        """Whether the step from t ends at clean data, and so without noise."""
        return bool(self._previous[t] == 0)

    def forward(self, of: Literal["x_t", "v"], device: torch.device, dtype: torch.dtype) -> Tensor:
        """What multiplies x_0 and eps at each t; shape (noised, 2)."""
        table = self._forward.get((of, device, dtype))
        if table is None:
            if not self.noised:
                raise ValueError(self.refusal(0))
            table = self._forward[of, device, dtype] = constant(self._coefficients[of], dtype, device)
        return table

    def reverse(self, device: torch.device) -> ZeroBased:
        """The tables of the reverse updates on a device, from each t to the next lower step of the chain."""
        tables = self._reverse.get(device)
        if tables is None:
            if self._schedule is None:
                raise ValueError(self.refusal(0))
            previous = self._previous[: self._schedule.T]
            tables = self._reverse[device] = ZeroBased(self._schedule, device, previous=previous)
        return tables

    def deviations(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """What makes noise of the deviation sqrt(beta) noise of a learned one; shape (reversed, 2).

        Half the difference between the logs of sqrt(beta) and of the posterior's deviation, and 1 / sqrt(beta); of a
        step that ends at clean data, 0 in place of the second.
        """
        table = self._deviations.get((device, dtype))
        if table is None:
            schedule = self.reverse(device).schedule
            jumps = Jumps(schedule, self._previous[: schedule.T])
            beta, posterior = (np.maximum(v, LOG_VARIANCE_FLOOR) for v in (jumps.beta, jumps.posterior_variance))
            inverse = np.where(jumps.previous > 0, beta**-0.5, 0)
            values = np.stack([np.log(beta / posterior) / 4, inverse], axis=-1)
            table = self._deviations[device, dtype] = constant(values, dtype, device)
        return table

    def noise(self, of: Literal["x_t", "v"], name: str, x_0: Tensor, noise: Tensor | NoiseAddress, t: Any) -> Tensor:
        """x_t or v from x_0 and its noise, whose shapes and that of t broadcast as in diffusers; the op `q_sample`.

        Parameters
        ----------
        of : {"x_t", "v"}
        name : str
            What the caller calls x_0.
        x_0 : Tensor, shape (B, ...)
        noise : Tensor or NoiseAddress
        t : int or Tensor of int64 or int32

        Returns
        -------
        Tensor
            Of the wider dtype of the two.
        """
        check_batch(name, x_0)
        t = self._rows(t, x_0)
        eps, address, dtype = None, NOWHERE, x_0.dtype
        if isinstance(noise, Tensor):
            eps = noise
            if eps.dtype is not dtype:
                if eps.dtype not in FLOATS:
                    check_batch("noise", eps)
                dtype = torch.promote_types(dtype, eps.dtype)
            check_device("noise", eps, x_0, name)
        shape = x_0.shape
        if (t.ndim and t.shape[0] != shape[0]) or (eps is not None and eps.shape != shape):
            shape = _broadcast(name, x_0, eps, t)
            x_0, eps = x_0.expand(shape), None if eps is None else eps.expand(shape)
            if t.ndim and t.shape[0] != shape[0]:
                t = t.reshape(())
        if eps is None:
            check_address(noise, shape[0], x_0.device)
            address = cast(NoiseAddress, noise).arguments()
        table = self.forward(of, x_0.device, compute_dtype(x_0))
        return cast(Tensor, OPS["q_sample"](x_0, t, table, eps, address, dtype, False)[0])

    def _rows(self, t: Any, x_0: Tensor) -> Tensor:
        """Timesteps to be noised, as a tensor () or (n,) where x_0 is."""
        if not isinstance(t, Tensor):
            t = plain_int("timesteps", t, "an int or a tensor of integers")
            if not 0 <= t < self.noised:
                raise ValueError(self.refusal(t))
            return torch.full((), t, dtype=torch.int64, device=x_0.device)
        if t.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"timesteps must be int64 or int32, got {str(t.dtype).removeprefix('torch.')}")
        if t.device != x_0.device:
            t = t.to(x_0.device)
        if t.ndim == 1:
            return t if t.shape[0] != 1 or x_0.shape[0] == 1 else t.reshape(())
        return t.flatten() if t.ndim else t

    def refusal(self, t: int) -> str:
        """Why there is no row for t."""
        if not 0 <= t < self.T:
            return f"timestep must lie in 0..{self.T - 1}, got {t}"
        if self.reversed <= t < self.solved:
            return f"alphas_cumprod[{t}] is 0: epsilon tells nothing of x_0 there; predict sample or v_prediction"
        return (
            f"every beta must be in (0, 1), and alphas_cumprod fall from below 1 to above 0, as they do at the first "
            f"{self.noised if t >= self.noised else self.solved} timesteps, not at {t}"
        )

    def timestep(self, t: Any, x: Tensor) -> tuple[int | Tensor, int | None]:
        """The timestep of a step as an op takes it, and as a number where the host need not wait for it.

        Parameters
        ----------
        t : int or Tensor, shape (), (1,) or (B,)
        x : Tensor, shape (B, ...)
            Decides the device.

        Returns
        -------
        t : int or Tensor, shape () or (B,)
        known : int or None

        Raises
        ------
        TypeError, ValueError
            For a known t that is not an integer or has no row.
        """
        known: int | None
        if isinstance(t, Tensor):
            if t.ndim == 1 and t.shape[0] == 1:
                t = t.reshape(())
            known = self._known(t)
            if t.device != x.device:
                t = t.to(x.device)
        else:
            t = known = plain_int("timestep", t, "an int or a tensor of integers")
        if known is not None and not 0 <= known < self.reversed:
            raise ValueError(self.refusal(known))
        return t, known

    def _known(self, t: Tensor) -> int | None:
        if t.ndim or torch.compiler.is_compiling() or type(t) is not Tensor:
            return None
        steps = self._timesteps
        if t.device == steps.device and t.dtype == steps.dtype and steps.is_contiguous():
            # a view of scheduler.timesteps, as a loop over it yields: its place says which, on any device
            behind = t.data_ptr() - steps.data_ptr()
            if 0 <= behind < steps.nbytes:
                return cast(int, self.host[behind // steps.element_size()])
        # on the CPU there is nothing to wait for
        return int(t) if t.is_cpu and not t.is_floating_point() else None


def _broadcast(name: str, x_0: Tensor, eps: Tensor | None, t: Tensor) -> torch.Size:
    """The shape that x_0, its noise and one t a sample come to."""
    steps = t.shape[0] if t.ndim else 1
    try:
        shape = x_0.shape if eps is None else torch.broadcast_shapes(x_0.shape, eps.shape)
        # of a noise with more axes, t would not lie along the first
        if steps != 1 and len(shape) == x_0.ndim:
            shape = torch.broadcast_shapes(shape, (steps, *(1,) * (x_0.ndim - 1)))
        elif steps != 1:
            raise RuntimeError
    except RuntimeError:
        noise = "" if eps is None else f", noise {tuple(eps.shape)}"
        raise ValueError(
            f"{name}, noise and timesteps must broadcast, with one timestep for each sample or one for all; got {name} "
            f"{tuple(x_0.shape)}{noise} and timesteps {tuple(t.shape)}"
        ) from None
    return shape


def _leading(true: np.ndarray) -> int:
    return len(true) if true.all() else int(np.argmin(true))


def _schedule_of(scheduler: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log alpha_bar, beta and ``alphas_cumprod`` of a scheduler; float64, shape (T,)."""
    given: Tensor = scheduler.alphas_cumprod.detach().cpu()
    if given.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"alphas_cumprod must be float32 or float64, got {str(given.dtype).removeprefix('torch.')}, which has no "
            f"numbers for most noise levels"
        )
    betas: Tensor = scheduler.betas.detach().cpu()
    alpha_bar = given.double().numpy()
    product = torch.cumprod(1 - betas, dim=0).double().numpy()
    # in place, a script may have changed some of them
    kept = product == alpha_bar if product.shape == alpha_bar.shape else np.zeros(len(alpha_bar), bool)
    if len(kept) >= _ROUNDED and not kept.all():
        for dtype in (torch.float16, torch.bfloat16):
            if torch.equal(given.to(dtype).to(given.dtype), given):
                raise ValueError("alphas_cumprod is rounded to half precision: keep it in float32")
    beta = betas.double().numpy() if product.shape == alpha_bar.shape else np.zeros(len(alpha_bar))
    with np.errstate(divide="ignore", invalid="ignore"):
        log_alpha_bar = np.where(kept, np.cumsum(np.log1p(-beta)), np.log(alpha_bar))
        before = np.concatenate([[0.0], log_alpha_bar[:-1]])
        both = kept & np.concatenate([[True], kept[:-1]])
        return log_alpha_bar, np.where(both, beta, -np.expm1(log_alpha_bar - before)), alpha_bar
