"""What the two schedulers share: the chain, the noising, and where the noise of a step comes from."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ...address import REVERSE, NoiseAddress
from ...backends.eager import cast, reverse_row, sigma_in_range
from ...ops import noise as noise_op
from ...ops import q_sample
from ...ops.checks import check_like
from .chain import PREDICTIONS, Chain
from .spacing import SPACINGS, checked_steps, custom_timesteps, spaced_timesteps

# what the tables are made from; `register_to_config` sets the last
_MADE_FROM = frozenset({"alphas_cumprod", "betas", "timesteps", "_internal_dict"})


class FusedScheduler:
    """Mixed in before a scheduler of diffusers, whose constructor, config and attributes it leaves as they are."""

    config: Any
    _chain: Chain | None = None
    _seed: int | Tensor | None = None
    _sample_ids: int | Tensor = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _MADE_FROM:
            self._chain = None
        super().__setattr__(name, value)

    def _begin(self) -> None:
        """The end of construction: refuse what no step could be made with, and make the tables for the CPU."""
        config = self.config
        for name, allowed in (("prediction_type", tuple(PREDICTIONS)), ("timestep_spacing", SPACINGS)):
            if config[name] not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {config[name]!r}")
        if config.compatible:
            return
        chain = self._tables()
        if chain.noised < chain.T:
            warnings.warn(chain.refusal(chain.noised), UserWarning, stacklevel=4)
        self.to("cpu")

    def _tables(self) -> Chain:
        if self._chain is None:
            self._chain = Chain(self, self._final())
        return self._chain

    def _final(self) -> int:
        """The step that the last update leads to, as we count."""
        return 0

    @classmethod
    def _get_compatibles(cls) -> list[type]:
        return [*super()._get_compatibles(), cls]  # type: ignore[misc]

    def to(self, device: torch.device | str) -> "FusedScheduler":
        """Make the tables on a device now: for `torch.compile`, and lest the first step wait for them.

        Parameters
        ----------
        device : torch.device or str

        Returns
        -------
        FusedScheduler
            Itself.
        """
        chain, device = self._tables(), torch.empty(0, device=device).device
        if chain.noised:
            chain.forward(device), chain.velocity(device)
        if chain.reversed:
            self._prepare(chain, device)
        return self

    def _prepare(self, chain: Chain, device: torch.device) -> None:
        """Make the tables that a step will ask for."""
        raise NotImplementedError

    def use_address(self, seed: int | Tensor | None, sample_ids: int | Tensor = 0) -> None:
        """From now on the noise of every step comes from an address, in a pipeline too; see `noisestep` docs/noise.md.

        Parameters
        ----------
        seed : int, Tensor or None
            As for `NoiseAddress`; None goes back to generators.
        sample_ids : int or Tensor of int64, shape (B,)
            The number of the batch's first image, from which the others count on, or the number of each.
        """
        if seed is not None:
            NoiseAddress(seed, REVERSE, 0, sample_ids)
        self._seed, self._sample_ids = seed, sample_ids

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the steps of the chain, before sampling.

        Parameters
        ----------
        num_inference_steps : int, optional
            How many, in 1..T, spaced as the config's ``timestep_spacing`` says.
        device : torch.device or str, optional
            Where ``timesteps`` are wanted.
        timesteps : sequence of int, optional
            The steps themselves, in place of their number: descending, in 0..T - 1.

        Raises
        ------
        TypeError, ValueError
            For both or neither, a number outside 1..T, or steps that ascend or are out of range.
        """
        if (num_inference_steps is None) == (timesteps is None):
            given = "both" if timesteps is not None else "neither"
            raise ValueError(f"set_timesteps takes one of num_inference_steps and timesteps, got {given}")
        config = self.config
        if config.compatible:
            if timesteps is None:
                checked_steps(num_inference_steps, config.num_train_timesteps)
            custom = {} if timesteps is None else {"timesteps": timesteps}
            super().set_timesteps(num_inference_steps, device, **custom)  # type: ignore[misc]
            return
        T = config.num_train_timesteps
        if timesteps is not None:
            numbers = custom_timesteps(timesteps, T)
        elif num_inference_steps is not None:
            numbers = spaced_timesteps(config.timestep_spacing, T, num_inference_steps, config.steps_offset)
        self.num_inference_steps = len(numbers)
        self.custom_timesteps = timesteps is not None
        self.timesteps = torch.tensor(numbers, dtype=torch.int64).to(device)
        self.to(self.timesteps.device)

    def add_noise(self, original_samples: Tensor, noise: Tensor | NoiseAddress, timesteps: Tensor | int) -> Tensor:
        """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise, rounded once; the op `q_sample`.

        Parameters
        ----------
        original_samples : Tensor, shape (B, ...)
            Floating.
        noise : Tensor, shape (B, ...), or NoiseAddress
            The noise, or the address that it is made from on the way.
        timesteps : Tensor of int64 or int32, shape (), (1,) or (B,), or int
            In 0..T - 1.

        Returns
        -------
        Tensor, shape (B, ...)
            Of the wider dtype of the two.

        Raises
        ------
        TypeError, ValueError
            For images of integers, noise of another shape, or a timestep that is out of range.
        """
        chain = self._tables()
        if chain.compatible:
            return super().add_noise(original_samples, noise, timesteps)  # type: ignore[misc,no-any-return]
        x_0 = _floating("original_samples", original_samples)
        t, _ = chain.timestep(timesteps, x_0, chain.noised)
        return q_sample(chain.forward(x_0.device), x_0, t, noise, dtype=_wider(x_0, noise))

    def get_velocity(self, sample: Tensor, noise: Tensor | NoiseAddress, timesteps: Tensor | int) -> Tensor:
        """v = sqrt(alpha_bar_t) noise - sqrt(1 - alpha_bar_t) x_0, rounded once.

        Parameters
        ----------
        sample : Tensor, shape (B, ...)
            x_0, floating.
        noise, timesteps
            As for `add_noise`.

        Returns
        -------
        Tensor, shape (B, ...)

        Raises
        ------
        TypeError, ValueError
            As for `add_noise`.
        """
        chain = self._tables()
        if chain.compatible:
            return super().get_velocity(sample, noise, timesteps)  # type: ignore[misc,no-any-return]
        x_0 = _floating("sample", sample)
        t, _ = chain.timestep(timesteps, x_0, chain.noised)
        return q_sample(chain.velocity(x_0.device), x_0, t, noise, dtype=_wider(x_0, noise))

    def _noise(
        self,
        model_output: Tensor,
        x_t: Tensor,
        t: int | Tensor,
        generator: Any,
        seed: int | Tensor | None,
        sample_ids: int | Tensor | None,
    ) -> Tensor | NoiseAddress:
        """The noise of a step: its address where one was asked for, or else drawn as diffusers draws it."""
        if seed is None:
            if sample_ids is not None:
                raise ValueError(f"sample_ids needs seed, got sample_ids={sample_ids!r} alone")
            seed, sample_ids = self._seed, self._sample_ids
        if seed is None:
            noise: Tensor = randn_tensor(
                x_t.shape, generator=generator, device=model_output.device, dtype=model_output.dtype
            )
            return noise
        if generator is not None:
            raise ValueError("the noise of a step comes from generator or from seed, got both")
        step = t.long() + 1 if isinstance(t, Tensor) else t + 1
        return NoiseAddress(seed, REVERSE, step, 0 if sample_ids is None else sample_ids)

    def _refuse_address(self, seed: object, sample_ids: object) -> None:
        """compatible=True runs diffusers' code, which draws its own noise."""
        if seed is not None or sample_ids is not None or self._seed is not None:
            raise ValueError("with compatible=True the noise comes from a generator, got seed or sample_ids")


def operands(sample: Tensor, model_output: Tensor) -> Tensor:
    """x_t in the wider dtype of the two, which is that of the result in diffusers."""
    x_t = _floating("sample", sample)
    return x_t if x_t.dtype == model_output.dtype else x_t.to(_wider(x_t, model_output))


def composed_step(
    table: Tensor,
    x_t: Tensor,
    output: Tensor,
    t: int | Tensor,
    noise: Tensor | NoiseAddress | None,
    *,
    clip: tuple[float, float] | None,
    threshold: tuple[float, float] | None,
    variance: Tensor | None = None,
    learned_range: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`noisestep.accelerated.ops.reverse_step` from PyTorch operations, for what the op has not.

    Those are derivatives, dynamic thresholding, and a variance that the network gives outright.

    Parameters
    ----------
    table : Tensor, shape (rows, 13)
        Of `DeviceSchedule.reverse_table`.
    x_t, output : Tensor, shape (B, ...)
    t : int or Tensor, shape () or (B,)
        Row of the table.
    noise : Tensor, NoiseAddress or None
        None where the update adds none.
    clip : (float, float), optional
        The range of the predicted x_0.
    threshold : (float, float), optional
        Quantile and largest scale of dynamic thresholding, in place of a clip.
    variance : Tensor, optional
        sigma^2, of the network.
    learned_range : Tensor, optional
        The network's place between the two variances, in [-1, 1].

    Returns
    -------
    x_s, x_0 : Tensor, shape (B, ...)
        In the dtype and layout of x_t.
    """
    check_like("model_output", output, x_t, "sample")
    c = reverse_row(table, torch.as_tensor(t, device=x_t.device), x_t)
    x, out = x_t.to(table.dtype), output.to(table.dtype)
    x_0 = c.x_0_from_x * x + c.x_0_from_out * out
    if threshold is not None:
        x_0 = thresholded(x_0, *threshold)
    elif clip is not None:
        x_0 = torch.clamp(x_0, *clip)
    x_s = (c.from_x_0 * x_0 + c.from_x * x) + c.from_out * out
    if noise is not None:
        z = noise_op(noise, x_t.shape, device=x_t.device) if isinstance(noise, NoiseAddress) else noise
        check_like("noise", z, x_t, "sample")
        sigma = c.sigma
        if variance is not None:
            sigma = sigma * variance.to(table.dtype).sqrt()
        if learned_range is not None:
            sigma = sigma_in_range(c, learned_range.to(table.dtype))
        # where no noise is added, not even that of a variance that is not finite
        x_s = x_s + torch.where(c.sigma > 0, sigma * z.to(table.dtype), 0)
    return cast(x_s, x_t, x_t.dtype), cast(x_0, x_t, x_t.dtype)


def thresholded(x_0: Tensor, quantile: float, largest: float) -> Tensor:
    """Dynamic thresholding: each image clipped to a quantile s of its magnitudes and divided by s; Saharia et al. 2022.

    Parameters
    ----------
    x_0 : Tensor, shape (B, ...)
        float32 or float64.
    quantile : float
        In [0, 1].
    largest : float
        s lies in 1..largest; with a largest below 1 it is that.

    Returns
    -------
    Tensor, shape (B, ...)
    """
    s = torch.quantile(x_0.abs().flatten(1), quantile, dim=1).clamp(min=1, max=largest)
    s = s.reshape(-1, *(1,) * (x_0.ndim - 1))
    return torch.clamp(x_0, -s, s) / s


def wants_gradient(*tensors: Tensor) -> bool:
    """Whether a derivative of a step could be asked for."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _floating(name: str, x: Tensor) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = str(x.dtype).removeprefix("torch.") if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be a floating tensor, got {got}; scale images to [-1, 1] first")
    return x


def _wider(x: Tensor, other: Tensor | NoiseAddress) -> torch.dtype:
    return torch.promote_types(x.dtype, other.dtype) if isinstance(other, Tensor) else x.dtype
