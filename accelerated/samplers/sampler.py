"""What a sampler is: a few facts, and the functions that take a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from noisestep.reference.multistep import Memory
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .loop import Chain

# one table of coefficients for each kind of step, float64 (T + 1, 3 + K)
Tables = NDArray[np.float64] | tuple[NDArray[np.float64], ...]


def multistep(chain: Chain) -> None:
    """x_{t-1} by the sampler's table, from x_t, what is predicted now, and what has been remembered."""
    chain.multistep(0, chain.memory, in_place=True, remember=True)


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A sampler, to the library, the command line and the documentation.

    Attributes
    ----------
    name : str
        What it is called by; the name of its file, here and in `noisestep.reference.samplers`.
    title : str
        Its name in prose.
    order : int
        Of convergence to the solution of the probability-flow ODE, or of its stochastic counterpart.
    source : str
        Paper and equation.
    predict : function of Chain
        Take `chain.x` from t to t − 1, with one call of the network: by default as the first of `tables` says.
    correct : function of Chain, optional
        Improve `chain.x` at the t that `predict` led to, with a second call. It is not called where that t is 0.
    settings : mapping
        Names and defaults of what it takes besides the options of every sampler; `chain.settings` has the values.
    tables : function of Schedule, optional
        `tables(schedule, **settings)`: a function of the reference with the coefficients of `chain.multistep`.
    memory : int
        Number of earlier predictions in `chain.memory`, the latest first; they start as zeros.
    remembers : {"x_0", "eps"}
        What these predictions are.
    keeps_state : bool
        Whether it also keeps a tensor like x_t, `chain.kept`, from one step to the next.
    raised : function of Schedule, optional
        `raised(schedule, trained=..., **settings)`: for each t, the step of the trained chain that the noise is raised
        to before a step is taken from there. The last of `tables`, which is then given `trained` too, is how, and the
        first is for the call of the network at that step.
    elsewhere : mapping
        What other libraries call it, and the settings with which it is the same, such as "with eta 0".
    """

    name: str
    title: str
    order: int
    source: str
    predict: Callable[[Chain], object] = multistep
    correct: Callable[[Chain], object] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    tables: Callable[..., Tables] | None = None
    memory: int = 0
    remembers: Memory = "x_0"
    keeps_state: bool = False
    raised: Callable[..., NDArray[np.int64]] | None = None
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    @property
    def one_step(self) -> bool:
        """Whether a step depends on x_t alone: no second call of the network, and nothing remembered."""
        return self.correct is None and self.memory == 0 and not self.keeps_state

    def steps_within(self, calls: int) -> int:
        """The most steps that take at most so many calls of the network; calls count from 1."""
        return calls if self.correct is None else (calls + 1) // 2

    def with_defaults(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings, as given or by default.

        Raises
        ------
        ValueError
            A setting that this sampler does not take.
        """
        for name in given:
            if name not in self.settings:
                takes = ", ".join(self.settings) or "no setting of its own"
                raise ValueError(f"{name} means nothing to sampler {self.name}, which takes {takes}")
        return {**self.settings, **given}


def check_maskable(sampler: Sampler) -> None:
    """Raise ValueError for a sampler that inpainting cannot use: a mask changes x between two steps."""
    if not sampler.one_step:
        raise ValueError(
            f"a mask changes x between two steps, and sampler {sampler.name} looks beyond one; take one that calls the "
            "network once a step and remembers nothing, such as ddim"
        )
