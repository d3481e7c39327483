"""What is checked of every op, one description each: `DESCRIPTIONS`, by the op's name.

Here stands how the kernels are interpreted, emulated, compiled, spoilt by planted faults, counted and timed. A new op
needs a description, in a module of this package, and what it is timed beside, in `benchmarks/baselines.py`.
"""

from importlib import import_module
from pkgutil import iter_modules

from .description import DESCRIPTIONS, Description

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["DESCRIPTIONS", "Description"]
