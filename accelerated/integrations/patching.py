"""Methods of an object of another library replaced by our ops, for as long as a `with` lasts."""

import importlib.metadata
import logging
import re
import sys
from typing import Any

from . import denoising_diffusion
from .improved_diffusion import patch as improved_diffusion
from .methods import replacements

_log = logging.getLogger("noisestep")


def patched(target: Any) -> "Patch":
    """Our ops in place of an object's methods, until the `with` ends, by an exception or not.

        with patched(diffusion):
            trainer.train()

    =====================================================  ====================================================
    target                                                 what may be replaced
    =====================================================  ====================================================
    denoising-diffusion-pytorch's ``GaussianDiffusion``    ``q_sample``, ``p_losses``, ``p_sample``
    improved-diffusion's ``GaussianDiffusion``, and that   ``q_sample``, ``p_sample``, ``ddim_sample``
    of guided-diffusion and DiT
    a diffusers pipeline                                   its DDPM or DDIM ``scheduler``
    =====================================================  ====================================================

    A method is replaced only if its code, and the code of every method that it calls, is the library's own, also in a
    copy of the library's file. What a subclass or the object itself has changed is left alone, and so is every method
    that would have called it. So are methods whose tables do not follow from the object's betas.

    Noise is drawn where and as the library draws it, so a seed gives the loss and the images that it gave, up to
    rounding. Calls that the ops do not cover go to the library's own method: types other than float32, immiscible and
    offset noise, self-conditioning, `denoised_fn`, `cond_fn`, a gradient through a reverse step, `torch.compile`.

    Parameters
    ----------
    target : object
        Itself is changed, not its class. A copy made meanwhile keeps the ops.

    Returns
    -------
    Patch
        For `with`, which yields `target`. It says what is replaced and what is left alone; so does the log named
        "noisestep" on entry, as a warning where something is left alone.

    Raises
    ------
    TypeError
        For an object that is none of those above.
    ImportError
        If denoising-diffusion-pytorch is older than 2.3.
    """
    if hasattr(target, "scheduler") and hasattr(target, "register_modules"):
        return _of_pipeline(target)
    for library in (denoising_diffusion, improved_diffusion):
        # a wrapper that hands on what it is asked for has none of the methods itself
        own = all(hasattr(type(target), name) for name in library.METHODS)
        if own and all(hasattr(target, name) for name in ("betas", *library.SIGNS)):
            _check_version(target)
            return Patch(target, *replacements(target, library.METHODS, library.KNOWN))
    raise TypeError(
        "patched takes a GaussianDiffusion of denoising-diffusion-pytorch or improved-diffusion, or a diffusers "
        f"pipeline with a DDPM or DDIM scheduler, got {type(target).__name__}"
    )


class Patch:
    """What is put in place of an object's attributes between `__enter__` and `__exit__`.

    Attributes
    ----------
    target : object
    replaced : tuple of str
        Names of the attributes that are replaced.
    left_alone : dict of str to str
        The others that might have been, and why they are not.
    """

    def __init__(self, target: Any, replacements: dict[str, Any], left_alone: dict[str, str]) -> None:
        self.target, self.replaced, self.left_alone = target, tuple(replacements), left_alone
        self._replacements = replacements
        self._before: dict[str, Any] = {}

    def __str__(self) -> str:
        said = [f"{', '.join(self.replaced) or 'nothing'} of {type(self.target).__name__} replaced"]
        said += [f"{name} left alone: {why}" for name, why in self.left_alone.items()]
        return "; ".join(said)

    def __enter__(self) -> Any:
        _log.log(logging.WARNING if self.left_alone else logging.INFO, "patched: %s", self)
        self._before = {name: vars(self.target)[name] for name in self.replaced if name in vars(self.target)}
        for name, replacement in self._replacements.items():
            setattr(self.target, name, replacement)
        return self.target

    def __exit__(self, *error: object) -> None:
        for name, replacement in self._replacements.items():
            # what a script has put there meanwhile stays
            if vars(self.target).get(name) is not replacement:
                continue
            if name in self._before:
                setattr(self.target, name, self._before[name])
            else:
                delattr(self.target, name)


def _of_pipeline(pipe: Any) -> Patch:
    from diffusers import DDIMScheduler, DDPMScheduler

    from .diffusers import FusedDDIMScheduler, FusedDDPMScheduler

    ours: dict[type, Any] = {DDPMScheduler: FusedDDPMScheduler, DDIMScheduler: FusedDDIMScheduler}
    scheduler: Any = pipe.scheduler
    kind = type(scheduler)
    if not issubclass(kind, tuple(ours)):
        raise TypeError(f"the pipeline's scheduler must be a DDPM or DDIM scheduler, got {kind.__name__}")
    if kind not in ours:
        return Patch(pipe, {}, {"scheduler": f"{kind.__name__} is a subclass"})
    for name, method in vars(kind).items():
        if name in vars(scheduler):
            return Patch(pipe, {}, {"scheduler": f"{name} is set on the object"})
        # known by its globals, since `functools.wraps` copies a module's name; diffusers itself wraps the constructor
        elsewhere = getattr(method, "__globals__", None) is not vars(sys.modules[kind.__module__])
        if callable(method) and elsewhere and name != "__init__":
            return Patch(pipe, {}, {"scheduler": f"{kind.__name__}.{name} is not the library's own"})
    scheduler_of_ours = ours[kind].from_config(scheduler.config)
    # tables and timesteps that a script has set; the config is the one of our class
    for name, value in vars(scheduler).items():
        if name != "_internal_dict":
            setattr(scheduler_of_ours, name, value)
    return Patch(pipe, {"scheduler": scheduler_of_ours}, {})


def _check_version(target: Any) -> None:
    if any(cls.__module__.partition(".")[0] == "denoising_diffusion_pytorch" for cls in type(target).__mro__):
        version = importlib.metadata.version("denoising-diffusion-pytorch")
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < (2, 3):
            raise ImportError(f"patched needs denoising-diffusion-pytorch 2.3 or later, got {version}")
