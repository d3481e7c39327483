"""DDPM: the ancestral update, one call of the network a step."""

from collections.abc import Iterator

from .._arguments import FloatArray
from ..reverse import Variance, reverse_step
from .chain import Chain


def ddpm(chain: Chain, *, variance: Variance = "posterior") -> Iterator[FloatArray]:
    """Ancestral sampling; Ho et al. 2020, algorithm 2.

        x_{t-1} = mu_theta(x_t, t) + sigma_t z

    Parameters
    ----------
    chain : Chain
    variance : {"beta", "posterior", "zero"}
        sigma_t^2 of :func:`noisestep.reference.reverse_step`.

    Yields
    ------
    ndarray of float64, shape (B, ...)
        x_{T-1}, .., x_0.
    """
    x_t = chain.x_T
    for t in range(chain.schedule.T, 0, -1):
        x_t = reverse_step(
            chain.schedule,
            x_t,
            chain.output(x_t, t),
            t,
            chain.z(t),
            prediction=chain.prediction,
            clip=chain.clip,
            variance=variance,
        )
        yield x_t
