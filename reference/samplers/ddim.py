"""DDIM: one call of the network a step, with or without fresh noise."""

from collections.abc import Iterator

from .._arguments import FloatArray
from ..reverse import ddim_step
from .chain import Chain


def ddim(chain: Chain, *, eta: float = 0.0, rederive_eps: bool = True) -> Iterator[FloatArray]:
    """DDIM; Song et al. 2021, eq. 12.

        x_{t-1} = sqrt(alpha_bar_{t-1}) x_0 + sqrt(1 - alpha_bar_{t-1} - sigma_t^2) eps + sigma_t z

    Parameters
    ----------
    chain : Chain
    eta : float
        In [0, 1]; sigma_t is eta times the posterior's.
    rederive_eps : bool
        As in :func:`noisestep.reference.ddim_step`.

    Yields
    ------
    ndarray of float64, shape (B, ...)
        x_{T-1}, .., x_0.
    """
    x_t = chain.x_T
    for t in range(chain.schedule.T, 0, -1):
        x_t = ddim_step(
            chain.schedule,
            x_t,
            chain.output(x_t, t),
            t,
            chain.z(t),
            eta=eta,
            prediction=chain.prediction,
            clip=chain.clip,
            rederive_eps=rederive_eps,
        )
        yield x_t
