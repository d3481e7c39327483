"""A scheduler's tables, with a row for each of its timesteps 0..T - 1."""

import operator
from typing import Any, cast

import numpy as np
import torch
from noisestep.reference.schedule import Schedule
from torch import Tensor

from ...schedule import Prediction
from ..zero_based import ZeroBased

PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}


class QuarterTurn(ZeroBased):
    """x_t turned by a right angle: where x_t = cos x_0 + sin eps, v = cos eps - sin x_0; Salimans & Ho 2022, app. D."""

    def forward_table(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """-sqrt(1 - alpha_bar_t) and sqrt(alpha_bar_t), what multiplies x_0 and eps in v.

        Parameters
        ----------
        dtype : torch.dtype
            float32 or float64.

        Returns
        -------
        Tensor, shape (T, 2)
        """
        return self._tables["velocity", dtype]

    def __init__(self, schedule: Schedule, device: torch.device | str = "cpu") -> None:
        super().__init__(schedule, device)
        turned = np.stack([-schedule.sqrt_one_minus_alpha_bar, schedule.sqrt_alpha_bar], axis=-1)
        for dtype in (torch.float32, torch.float64):
            self._tables["velocity", dtype] = self._on_device(turned, dtype)


class Chain:
    """What a scheduler's config, ``alphas_cumprod`` and timesteps come to; made once, until one of them changes.

    The schedule is ``betas``; all that follows from them is computed in float64 and rounded once. Where
    ``alphas_cumprod`` was set to something else than their product, it is the schedule.

    Parameters
    ----------
    scheduler : SchedulerMixin
        A DDPM or DDIM scheduler.
    final : {0, 1}
        The step that the last update leads to, as we count: clean data, or the first step's level of noise.
    """

    def __init__(self, scheduler: Any, final: int) -> None:
        config = scheduler.config
        self.compatible: bool = config.compatible
        self.prediction = PREDICTIONS[config.prediction_type]
        self.threshold = (config.dynamic_thresholding_ratio, config.sample_max_value) if config.thresholding else None
        self.clip = None
        if config.clip_sample and not config.thresholding:
            self.clip = (-float(config.clip_sample_range), float(config.clip_sample_range))
        beta, alpha_bar = _schedule_of(scheduler)
        self.T = len(beta)
        # diffusers refuses none of them: the steps that a table can be made for
        inside = (beta > 0) & (beta < 1) & (alpha_bar > 0)
        self.positive = self.T if inside.all() else int(np.argmin(inside))
        zero = self.positive == self.T - 1 and bool(beta[-1] == 1)
        self.noised = self.T if zero else self.positive
        # eps says nothing of x_0 where alpha_bar is 0
        self.reversed = self.positive if self.prediction == "eps" else self.noised
        beta = beta[: self.noised]
        self._whole = Schedule(beta, zero_terminal_snr=zero) if self.noised else None
        self._reverse = self._whole if self.reversed == self.noised else Schedule(beta[: self.reversed])
        # read once: the steps on the host, by which a tensor that is one of scheduler.timesteps is known
        self._timesteps: Tensor = scheduler.timesteps
        self.host = self._timesteps.tolist()
        self._previous = self._steps_before(final)
        self._on: dict[tuple[str, torch.device], ZeroBased] = {}

    def _steps_before(self, final: int) -> np.ndarray:
        # the next lower step of the chain, for each t of ours in 1..T
        visited = np.unique([t + 1 for t in self.host if t >= 0])
        t = np.arange(1, self.T + 1)
        below = np.searchsorted(visited, t) - 1
        return np.where(below >= 0, visited[below], final)

    def previous(self, t: Tensor) -> Tensor:
        """The step that follows t in the chain, -1 after the last; both as diffusers counts."""
        return (torch.from_numpy(self._previous) - 1).to(t.device)[t]

    def forward(self, device: torch.device) -> ZeroBased:
        """The tables of q(x_t | x_0) on a device."""
        return self._at("forward", device)

    def velocity(self, device: torch.device) -> ZeroBased:
        """The tables of v on a device."""
        return self._at("velocity", device)

    def reverse(self, device: torch.device) -> ZeroBased:
        """The tables of the reverse updates on a device, from each t to the next lower step of the chain."""
        return self._at("reverse", device)

    def _at(self, kind: str, device: torch.device) -> ZeroBased:
        if (kind, device) not in self._on:
            self._on[kind, device] = self._make(kind, device)
        return self._on[kind, device]

    def _make(self, kind: str, device: torch.device) -> ZeroBased:
        schedule = self._reverse if kind == "reverse" else self._whole
        if schedule is None:
            raise ValueError(self.refusal(0))
        if kind == "velocity":
            return QuarterTurn(schedule, device)
        return ZeroBased(schedule, device, previous=self._previous[: schedule.T] if kind == "reverse" else None)

    def refusal(self, t: int) -> str:
        """Why there is no row for t."""
        if not 0 <= t < self.T:
            return f"timestep must lie in 0..{self.T - 1}, got {t}"
        if t < self.noised:
            return f"alphas_cumprod[{t}] is 0: epsilon tells nothing of x_0 there; predict sample or v_prediction"
        return (
            f"every beta must be in (0, 1) and alphas_cumprod above 0, as they are at the first {self.positive} "
            f"timesteps, not at {t}"
        )

    def timestep(self, t: Any, x: Tensor, rows: int) -> tuple[int | Tensor, int | None]:
        """A timestep as an op takes it, and as a number where the host knows it without waiting for a device.

        Parameters
        ----------
        t : int or Tensor, shape (), (1,) or (B,)
        x : Tensor, shape (B, ...)
            Decides the device.
        rows : int
            Steps that there is a table for.

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
            t = t.to(x.device)
        else:
            t = known = operator.index(t)
        if known is not None and not 0 <= known < rows:
            raise ValueError(self.refusal(known))
        return t, known

    def _known(self, t: Tensor) -> int | None:
        if t.ndim or torch.compiler.is_compiling():
            return None
        steps = self._timesteps
        one_memory = t.device == steps.device and t.untyped_storage().data_ptr() == steps.untyped_storage().data_ptr()
        if one_memory and steps.is_contiguous():
            # a view of scheduler.timesteps, as a loop over it yields: its place says which, on any device
            return cast(int, self.host[t.storage_offset() - steps.storage_offset()])
        # on the CPU there is nothing to wait for
        return int(t) if t.device.type == "cpu" and not t.is_floating_point() else None


def _schedule_of(scheduler: Any) -> tuple[np.ndarray, np.ndarray]:
    """The betas that a scheduler's attributes come to, and its alphas_cumprod; float64, shape (T,)."""
    betas, alpha_bar = scheduler.betas.detach().cpu(), scheduler.alphas_cumprod.detach().cpu()
    if torch.equal(torch.cumprod(1 - betas, dim=0), alpha_bar):
        return betas.double().numpy(), alpha_bar.double().numpy()
    alpha_bar = alpha_bar.double().numpy()
    before = np.concatenate([[1.0], alpha_bar[:-1]])
    with np.errstate(divide="ignore", invalid="ignore"):
        return (before - alpha_bar) / before, alpha_bar
