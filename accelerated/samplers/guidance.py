"""Guidance on tensors: `noisestep.reference.guidance`, around the network and the fused op."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from noisestep.reference._arguments import real
from noisestep.reference.guidance import classifier_coefficients, guided_steps
from noisestep.reference.prediction import Prediction
from noisestep.reference.schedule import Schedule
from torch import Tensor

from ..ops.checks import check_values_of
from ..schedule import DeviceSchedule


@dataclass(frozen=True, eq=False)
class Guidance:
    """Classifier-free guidance (Ho & Salimans 2022): unconditional + scale (conditional − unconditional).

    Parameters
    ----------
    scale : float or Tensor of shape (count,)
        One for all samples, or one for each.
    interval : (float, float)
        Guide where σ_t = √((1 − ᾱ_t) / ᾱ_t) is in this range, both ends included (Kynkäänniemi et al. 2024). Elsewhere
        the network is called once, with the label.
    rescale : float
        In [0, 1]: how far the standard deviation of a sample's output goes back from the guided to the conditional one
        (Lin et al. 2023, eq. 14 to 16). It takes the update out of one fused op: the guided output is made before it.

    Raises
    ------
    TypeError, ValueError
        A scale that is not finite or of another shape, an interval that is none, a rescale out of range.
    """

    scale: float | Tensor
    interval: tuple[float, float] = (0.0, math.inf)
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.interval, tuple | list) or len(self.interval) != 2:
            raise TypeError(f"the interval of guidance must be (low, high), got {self.interval!r}")
        low, high = (real("an end of the interval of guidance", end) for end in self.interval)
        if not 0 <= low <= high:
            raise ValueError(
                f"the interval of guidance must be 0 <= low <= high, got {self.interval[0]} and {self.interval[1]}"
            )
        if not 0 <= real("the rescale of guidance", self.rescale) <= 1:
            raise ValueError(f"the rescale of guidance must be in [0, 1], got {self.rescale}")
        if not isinstance(self.scale, Tensor):
            object.__setattr__(self, "scale", real("guidance", self.scale))
        else:
            check_values_of("guidance", self.scale)
        if isinstance(self.scale, Tensor) and (self.scale.ndim != 1 or not self.scale.is_floating_point()):
            raise ValueError(
                f"guidance must be a number or a floating tensor of shape (count,), got {self.scale.dtype} of shape "
                f"{tuple(self.scale.shape)}"
            )
        if not bool(torch.isfinite(torch.as_tensor(self.scale)).all()):
            raise ValueError(f"guidance must be finite, got {self.scale}")

    @property
    def active(self) -> bool:
        """Whether the network is ever called without the labels."""
        return isinstance(self.scale, Tensor) or self.scale != 1.0

    def check(self, count: int, *, labelled: bool) -> None:
        """Raise ValueError where it does not fit the samples: another number of scales, or labels that are missing."""
        if isinstance(self.scale, Tensor) and self.scale.shape != (count,):
            raise ValueError(f"guidance has shape {tuple(self.scale.shape)}; {count} images need ({count},)")
        if self.active and not labelled:
            said = "a tensor" if isinstance(self.scale, Tensor) else f"{self.scale:g}"
            raise ValueError(f"guidance is {said}; it needs labels, and a model trained with label dropout")

    def steps(self, schedule: Schedule) -> list[bool]:
        """Whether step t is guided, for each t in 0..T."""
        guided: list[bool] = guided_steps(schedule, *self.interval).tolist()
        return [self.active and here for here in guided]


class Network:
    """A model as the steps of a chain ask it: with and without the labels where they are guided, moved by a classifier.

    Parameters
    ----------
    model : function
        `model(x, t, label)`.
    schedule : DeviceSchedule
        Of the chain.
    guidance : Guidance
    null_label : int or None
        Needed where the guidance is active.
    classifier : function or None
        `classifier(x, t, label)`, called like the model: the gradient of log p(y | x_t) in x_t, times its scale.
    prediction : {"eps", "x_0", "v", "flow"}
        What the model predicts.

    Attributes
    ----------
    guided : list of bool
        Whether step t is guided, for each t in 0..T.
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        schedule: DeviceSchedule,
        *,
        guidance: Guidance,
        null_label: int | None = None,
        classifier: Callable[..., Tensor] | None = None,
        prediction: Prediction = "eps",
    ) -> None:
        self.guided = guidance.steps(schedule.schedule)
        self._model, self._null_label = model, null_label
        self._scale, self._rescale = guidance.scale, guidance.rescale
        self._classifier = classifier
        if classifier is not None:
            table = classifier_coefficients(schedule.schedule, prediction)
            self._coefficients = torch.from_numpy(table).to(schedule.device, torch.float32)

    def scale_of(self, first: int, count: int, device: torch.device | str) -> Tensor | None:
        """The scales of samples first .. first + count − 1 alone; None where all have the same."""
        if not isinstance(self._scale, Tensor):
            return None
        return self._scale[first : first + count].to(device, torch.float32)

    def __call__(
        self, x: Tensor, t: Tensor, model_t: Tensor, label: Tensor | None, *, guided: bool, scale: Tensor | None
    ) -> tuple[Tensor, float | Tensor | None]:
        """The output for x at step t, which the model knows as `model_t`, and the guidance that is left for the update.

        Parameters
        ----------
        x : Tensor, shape (B, C, H, W)
        t : Tensor of int64, shape (1,)
            Row of the schedule's tables.
        model_t : Tensor of int64, shape (B,)
        label : Tensor of int64, shape (B,), or None
        guided : bool
            What `guided` says of this t.
        scale : Tensor, shape (B,), or None
            From `scale_of`.

        Returns
        -------
        output : Tensor, shape (B, C, H, W), or (2B, C, H, W) without and with the labels where guidance is left
        guidance : float, Tensor of shape (B,), or None
        """
        move = self._move(x, t, model_t, label)
        if not guided:
            output = self._model(x, model_t, label)
            return (output if move is None else output + move), None
        assert label is not None
        assert self._null_label is not None
        without = torch.full_like(label, self._null_label)
        both = self._model(torch.cat([x, x]), torch.cat([model_t, model_t]), torch.cat([without, label]))
        factor = self._scale if scale is None else scale
        if not self._rescale:
            return (both if move is None else both + torch.cat([move, move])), factor
        unconditional, conditional = both.to(x.dtype).chunk(2)
        factor = factor[:, None, None, None] if isinstance(factor, Tensor) else factor
        output = self._rescaled(unconditional + factor * (conditional - unconditional), conditional)
        return (output if move is None else output + move), None

    def _rescaled(self, output: Tensor, conditional: Tensor) -> Tensor:
        asked, spread = (x.std(dim=(1, 2, 3), correction=0, keepdim=True) for x in (conditional, output))
        ratio = torch.where(spread > 0, asked / spread, 1.0)
        return (self._rescale * ratio + (1 - self._rescale)) * output

    def _move(self, x: Tensor, t: Tensor, model_t: Tensor, label: Tensor | None) -> Tensor | None:
        if self._classifier is None:
            return None
        # ordinary tensors, through which the function may take a gradient
        with torch.inference_mode(False):
            gradient = self._classifier(x.clone(), model_t.clone(), None if label is None else label.clone())
        if gradient.shape != x.shape:
            raise ValueError(
                f"the classifier's gradient has shape {tuple(gradient.shape)}; x has shape {tuple(x.shape)}"
            )
        return self._coefficients.gather(0, t) * gradient.detach().to(x.dtype)
