"""From noise to images: the loop (`loop.sample`), and one sampler a file, found by the name that it gives itself.

Only `loop`, what it works with (`editing`, `guidance`) and `inversion` import torch, so that the command line can list
the samplers at once.
"""

import importlib
import pkgutil

from .sampler import Sampler

__all__ = ["SAMPLERS", "Sampler"]

# every other file holds one sampler, SAMPLER
_NO_SAMPLERS = ("editing", "guidance", "inversion", "loop", "sampler", "__main__")


def _found() -> dict[str, Sampler]:
    names = [name for _, name, _ in pkgutil.iter_modules(__path__) if name not in _NO_SAMPLERS]
    samplers = [importlib.import_module(f"{__name__}.{name}").SAMPLER for name in names]
    return {sampler.name: sampler for sampler in samplers}


SAMPLERS: dict[str, Sampler] = _found()

# a name in other libraries -> what it is called here
ELSEWHERE = {
    theirs: f"{sampler.name} {settings}".rstrip()
    for sampler in SAMPLERS.values()
    for theirs, settings in sampler.elsewhere.items()
}
