"""What the two schedulers share: the chain, the noising, and where the noise of a step comes from."""

import functools
import inspect
import json
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.utils import DummyObject
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ...address import REVERSE, NoiseAddress
from ...backends.eager import cast, reverse_row, reverse_update, rows_at, sigma_in_range
from ...ops import noise as noise_op
from ...ops import reverse_step
from ...ops.checks import check_batch, check_like, compute_dtype
from ...schedule import constant, outside_of_modes
from .chain import PREDICTIONS, Chain
from .spacing import SPACINGS, checked_steps, custom_timesteps, spaced_timesteps

# what the tables are made from; `register_to_config` sets the last
_MADE_FROM = frozenset({"alphas_cumprod", "betas", "final_alpha_cumprod", "timesteps", "_internal_dict"})
# what the noise levels are made from
_LEVELS = frozenset({"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"})
# what a config says whose noise levels are not those of its betas
_OTHER_LEVELS: dict[str, Callable[[Any], bool]] = {
    "shift": lambda value: value is not None,
    "use_flow_sigmas": bool,
    "sigma_data": lambda value: value is not None,
    "timestep_type": lambda value: value == "continuous",
    "snr_shift_scale": lambda value: value not in (None, 1),
}


class FusedScheduler:
    """Mixed in before a scheduler of diffusers, whose constructor, config and attributes it leaves as they are.

    A class has the ``__name__`` of diffusers' own, by which it is saved.
    """

    config: Any
    _chain: Chain | None = None
    _compatible = False
    _seed: int | Tensor | None = None
    _sample_ids: int | Tensor = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _MADE_FROM:
            self._chain = None
            if name == "_internal_dict":
                self._compatible = bool(value.get("compatible"))
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        # a copy watches attributes of its own
        return {**self.__dict__, "_chain": None}

    def _begin(self) -> None:
        """The end of construction: refuse what no step could be made with, and make the tables for the CPU."""
        if type(self).__module__ == __package__:
            # a pipeline saves the module of its scheduler beside the name of its class, and loads it from there
            self.__dict__["__module__"] = "diffusers"
        if self.config.get("_use_default_values") == ["compatible"]:
            # loaded from what `to_json_string` wrote: nothing of it was left out
            self._internal_dict = FrozenDict({k: v for k, v in self.config.items() if k != "_use_default_values"})
        config = self.config
        for name, allowed in (("prediction_type", tuple(PREDICTIONS)), ("timestep_spacing", SPACINGS)):
            if config[name] not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {config[name]!r}")
        if config.compatible:
            return
        if config.thresholding and not 0 <= config.dynamic_thresholding_ratio <= 1:
            raise ValueError(f"dynamic_thresholding_ratio must be in [0, 1], got {config.dynamic_thresholding_ratio}")
        chain = self._tables()
        if chain.solved < chain.T:
            warnings.warn(chain.refusal(chain.solved), UserWarning, stacklevel=4)
        self.to("cpu")

    def _tables(self) -> Chain:
        chain = self._chain
        # a compiled function keeps the tables that it was compiled with
        if chain is None or not (torch.compiler.is_compiling() or not chain.changed()):
            with outside_of_modes():
                chain = self._chain = Chain(self, self._final())
        return chain

    def _final(self) -> Literal[0, 1]:
        """The step that the last update leads to, as we count."""
        return 0

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """diffusers' reading of a config, which ignores what it does not know; refused is one of another process.

        Raises
        ------
        ValueError
            For the config of a scheduler whose noise levels no betas give, such as flow matching's or EDM's.
        """
        known = {**config_dict, **kwargs}
        source = next((f"{key}={known[key]!r}" for key, says in _OTHER_LEVELS.items() if says(known.get(key))), None)
        other = getattr(diffusers, str(known.get("_class_name")), None)
        if other is not None and not isinstance(other, DummyObject):
            complete: Collection[str] | None = inspect.signature(other).parameters
        else:
            # a scheduler's own config has every argument, one from a file or by hand may not
            complete = known if isinstance(config_dict, FrozenDict) else None
        if source is None and complete is not None and "beta_schedule" not in complete:
            source = f"keys {', '.join(key for key in known if key[0] != '_')}"
        if source is not None:
            raise ValueError(
                f"{cls.__qualname__} takes the config of a scheduler whose noise levels are those of a beta_schedule, "
                f"got one with {source}"
            )
        left_out = config_dict.get("_use_default_values", ())
        if not known.get("compatible") and not _LEVELS.isdisjoint(left_out):
            # diffusers puts this class's defaults in place of those that the config's own class has
            ours = inspect.signature(cls).parameters
            same = [name for name in left_out if name not in _LEVELS or config_dict.get(name) == ours[name].default]
            config_dict = {**config_dict, "_use_default_values": same}
        return super().extract_init_dict(config_dict, **kwargs)  # type: ignore[misc]

    @classmethod
    def _get_compatibles(cls) -> list[type]:
        return [*super()._get_compatibles(), cls]  # type: ignore[misc]

    def to_json_string(self) -> str:
        """The config as JSON, as diffusers reads it too: ``compatible`` is left out unless it is set."""
        config = json.loads(super().to_json_string())  # type: ignore[misc]
        if not config.get("compatible"):
            config.pop("compatible", None)
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

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
            chain.forward("x_t", device, torch.float32), chain.forward("v", device, torch.float32)
        if chain.reversed:
            self._prepare(chain, device)
        return self

    def _prepare(self, chain: Chain, device: torch.device) -> None:
        """Make the tables that a step will ask for."""
        raise NotImplementedError

    def use_address(self, seed: int | Tensor | None, sample_ids: int | Tensor = 0) -> None:
        """From now on the noise of every step comes from an address, in a pipeline too; see `noisestep` docs/noise.md.

        A generator that a pipeline is given draws the first latents, and nothing in the steps.

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
        self.timesteps = constant(np.array(numbers), torch.int64, torch.device(device or "cpu"))
        self.to(self.timesteps.device)

    def add_noise(self, original_samples: Tensor, noise: Tensor | NoiseAddress, timesteps: Tensor | int) -> Tensor:
        """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise, rounded once; the op `q_sample`.

        Parameters
        ----------
        original_samples : Tensor, shape (B, ...)
            float32, float16, bfloat16 or float64.
        noise : Tensor, shape (B, ...), or NoiseAddress
            The noise, or the address that it is made from on the way.
        timesteps : Tensor of int64 or int32, shape (), (1,) or (B,), or int
            In 0..T - 1.

        Returns
        -------
        Tensor, shape (B, ...)
            Of the wider dtype of the two. Shapes broadcast: one image with several noises or timesteps, one noise for
            all images.

        Raises
        ------
        TypeError, ValueError
            For images of integers, shapes that do not broadcast, or a timestep that is out of range.
        """
        if self._compatible:
            return super().add_noise(original_samples, noise, timesteps)  # type: ignore[misc,no-any-return]
        return self._tables().noise("x_t", "original_samples", original_samples, noise, timesteps)

    def get_velocity(self, sample: Tensor, noise: Tensor | NoiseAddress, timesteps: Tensor | int) -> Tensor:
        """v = sqrt(alpha_bar_t) noise - sqrt(1 - alpha_bar_t) x_0, rounded once.

        Parameters
        ----------
        sample : Tensor, shape (B, ...)
            x_0.
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
        if self._compatible:
            return super().get_velocity(sample, noise, timesteps)  # type: ignore[misc,no-any-return]
        return self._tables().noise("v", "sample", sample, noise, timesteps)

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
        if seed is not None and generator is not None:
            raise ValueError("the noise of a step comes from generator or from seed, got both")
        if seed is None:
            if sample_ids is not None:
                raise ValueError(f"sample_ids needs seed, got sample_ids={sample_ids!r} alone")
            seed, sample_ids = self._seed, self._sample_ids
        if seed is None:
            noise: Tensor = randn_tensor(
                x_t.shape, generator=generator, device=model_output.device, dtype=model_output.dtype
            )
            return noise
        step = t.long() + 1 if isinstance(t, Tensor) else t + 1
        return NoiseAddress(seed, REVERSE, step, 0 if sample_ids is None else sample_ids)

    def _refuse_address(self, seed: object, sample_ids: object) -> None:
        """compatible=True runs diffusers' code, which draws its own noise."""
        if seed is not None or sample_ids is not None or self._seed is not None:
            raise ValueError("with compatible=True the noise comes from a generator, got seed or sample_ids")


def operands(sample: Tensor, model_output: Tensor) -> Tensor:
    """x_t in the wider dtype of the two, which is that of the result in diffusers."""
    x_t = check_batch("sample", sample)
    if x_t.dtype is model_output.dtype:
        return x_t
    return x_t.to(torch.promote_types(x_t.dtype, check_batch("model_output", model_output).dtype))


def composed_step(
    table: Tensor,
    x_t: Tensor,
    output: Tensor,
    t: int | Tensor,
    noise: Tensor | NoiseAddress | None,
    *,
    clip: tuple[float, float] | None,
    threshold: tuple[float, float] | None,
    own_eps: bool,
    variance: Tensor | None = None,
    learned_range: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`noisestep.accelerated.ops.reverse_step` from PyTorch operations, for what the op has not.

    Those are derivatives, dynamic thresholding, and a variance that the network gives outright.

    Parameters
    ----------
    table : Tensor, shape (rows, 10)
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
    own_eps : bool
        DDIM: eps stays as predicted.
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
    bound: Callable[[Tensor], Tensor] | None = None
    if threshold is not None:
        bound = functools.partial(thresholded, quantile=threshold[0], largest=threshold[1])
    elif clip is not None:
        bound = functools.partial(torch.clamp, min=clip[0], max=clip[1])
    added = None
    if noise is not None:
        z = noise_op(noise, x_t.shape, device=x_t.device) if isinstance(noise, NoiseAddress) else noise
        check_like("noise", z, x_t, "sample")
        sigma = c.sigma
        if variance is not None:
            sigma = sigma * variance.to(table.dtype).sqrt()
        if learned_range is not None:
            sigma = sigma_in_range(c, learned_range.to(table.dtype))
        # where no noise is added, not even that of a variance that is not finite
        added = torch.where(c.sigma > 0, sigma * z.to(table.dtype), 0)
    x, out = x_t.to(table.dtype), output.to(table.dtype)
    x_s, x_0 = reverse_update(c, x, out, added, bound=bound, own_eps=own_eps)
    return cast(x_s, x_t, x_t.dtype), cast(x_0, x_t, x_t.dtype)


def learned_step(
    chain: Chain,
    x_t: Tensor,
    output: Tensor,
    t: int | Tensor,
    known: int | None,
    noise: Tensor | NoiseAddress,
    given: Tensor,
    *,
    learned_range: bool,
) -> tuple[Tensor, Tensor]:
    """`composed_step` for a variance of the network's, where no derivative is wanted.

    The op takes a step with the variance beta, from noise that is multiplied by sigma / sqrt(beta) beforehand.

    Parameters
    ----------
    chain : Chain
    x_t, output, t, noise
        As for `composed_step`.
    known : int, optional
        t where the host knows it, and that noise is added there.
    given : Tensor, shape (B, ...)
        The network's place between the two variances, in [-1, 1], or its sigma^2.
    learned_range : bool
        Which of the two `given` is.

    Returns
    -------
    x_s, x_0 : Tensor, shape (B, ...)
        In the dtype and layout of x_t.
    """
    z = noise_op(noise, x_t.shape, device=x_t.device) if isinstance(noise, NoiseAddress) else noise
    check_like("noise", z, x_t, "sample")
    table = chain.deviations(x_t.device, compute_dtype(x_t))
    on_host = known is not None and x_t.is_cpu
    half: Any
    inverse: Any
    if on_host:
        half, inverse = table[known].tolist()
    else:
        half, inverse = rows_at(table, torch.as_tensor(t, device=x_t.device), x_t)
    # the only memory that a step wants besides its results: the rest is done in place
    scale = given.to(table.dtype, copy=True)
    scale = scale.mul_(half).sub_(half).exp_() if learned_range else scale.sqrt_().mul_(inverse)
    scale.mul_(z)
    if not on_host:
        # where no noise is added, not even that of a variance that is not finite
        scale.masked_fill_(inverse == 0, 0)
    options: dict[str, Any] = dict(prediction=chain.prediction, clip=chain.clip, variance="beta")
    return reverse_step(chain.reverse(x_t.device), x_t, output.contiguous(), t, scale, **options, return_x_0=True)


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
    if largest <= 1:
        return x_0.clamp(-largest, largest) / largest
    magnitudes = x_0.abs().flatten(1)
    place = quantile * (magnitudes.shape[1] - 1)
    # the largest ones alone, which `torch.quantile` would find by sorting them all; NaN comes first
    top = magnitudes.topk(magnitudes.shape[1] - int(place), dim=1).values
    s = torch.lerp(top[:, -1], top[:, -2:][:, 0], place - int(place))
    s = torch.where(top[:, 0].isnan(), top[:, 0], s).clamp(min=1, max=largest)
    s = s.reshape(-1, *(1,) * (x_0.ndim - 1))
    return torch.clamp(x_0, -s, s) / s


def wants_gradient(*tensors: Tensor) -> bool:
    """Whether a derivative of a step could be asked for."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
