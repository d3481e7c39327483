"""The chapter's small convolutional network eps_theta(x_t, t), forward and backward by hand.

Three 3x3 convolutions with ReLU between them, as the chapter writes `SimpleUNet`. The chapter's code takes t and does
not use it; here its sinusoidal embedding passes through a linear layer and is added to the first convolution.

    h_1 = ReLU(conv1(x) + time(e(t)))
    h_2 = ReLU(conv2(h_1))
    eps = conv3(h_2)

Inside, images have their channels last, so that the values under a 3x3 window lie in three unbroken runs of memory and
a convolution becomes one product of matrices.

The gradients are those of the chain rule, applied from the last layer to the first. Each layer keeps from the forward
pass what its rule needs (`Activations`): a product needs its other factor, and a ReLU where its output was positive.
Every rule is written out in ``docs/training-by-hand.md``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ._arguments import array, floats, integer
from .noise import INITIAL_WEIGHTS, normal

Array = NDArray[np.floating[Any]]
Parameters = dict[str, Array]

# above the widest layer, which has as many numbers as the square of it
MOST = 1 << 16


def timestep_embedding(t: ArrayLike, width: int) -> NDArray[np.float64]:
    """Sinusoidal embedding e(t) of the timestep, Vaswani et al. 2017, section 3.5, as Ho et al. 2020 use it.

        e(t) = (cos w_0 t, ..., cos w_{h-1} t, sin w_0 t, ..., sin w_{h-1} t)
        w_i = 10000^(-i / h),   h = width / 2

    The fast waves tell neighbouring timesteps apart, the slow ones tell early from late; and all lie in [-1, 1], where
    t itself would dwarf every other input of a network.

    Parameters
    ----------
    width : int
        Number of features, even, at least 2.

    Returns
    -------
    ndarray of float64, shape (B, width)
    """
    width = _even("width", width)
    half = width // 2
    frequency = np.exp(-log(10000) * np.arange(half) / half)
    angle = _timesteps(t)[:, None] * frequency  # (B, half)
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def parameter_shapes(channels: int = 3, width: int = 64, embedding: int = 64) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of `SimpleUNet`, in PyTorch's layout.

    Parameters
    ----------
    channels, width : int
        Channels of the images and of the hidden layers, at least 1.
    embedding : int
        Features of the timestep's embedding, even, at least 2.

    Returns
    -------
    dict of str to tuple of int
        Convolutions are (out, in, 3, 3), the linear layer (out, in).
    """
    channels, width = integer("channels", channels, 1, MOST), integer("width", width, 1, MOST)
    embedding = _even("embedding", embedding)
    return {
        "time.weight": (width, embedding),
        "time.bias": (width,),
        "conv1.weight": (width, channels, 3, 3),
        "conv1.bias": (width,),
        "conv2.weight": (width, width, 3, 3),
        "conv2.bias": (width,),
        "conv3.weight": (channels, width, 3, 3),
        "conv3.bias": (channels,),
    }


def initial_parameters(
    seed: int,
    channels: int = 3,
    width: int = 64,
    embedding: int = 64,
    *,
    dtype: DTypeLike = np.float64,
) -> Parameters:
    """Random weights for `SimpleUNet` at the start of training (He et al. 2015, section 2.2), biases zero.

        W ~ N(0, 2 / fan_in)

    A sum of fan_in products has fan_in times the variance of one, and a ReLU halves the mean square; with 2 / fan_in
    the signal keeps its size from layer to layer. The numbers have an address like all others: stream 8
    (INITIAL_WEIGHTS), with the parameter's place in `parameter_shapes` as the step and 0 as the sample.

    Parameters
    ----------
    channels, width, embedding : int
        As for `parameter_shapes`.
    dtype : float64 or float32
        What the network computes in.

    Returns
    -------
    dict of str to ndarray
    """
    if not isinstance(dtype, str | type | np.dtype) or dtype not in ("float32", "float64", np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")
    parameters: Parameters = {}
    for step, (name, shape) in enumerate(parameter_shapes(channels, width, embedding).items()):
        if name.endswith("bias"):
            parameters[name] = np.zeros(shape, dtype)
        else:
            z = normal(seed, INITIAL_WEIGHTS, step, 0, shape)[0]
            parameters[name] = (np.sqrt(2 / prod(shape[1:])) * z).astype(dtype)
    return parameters


@dataclass(frozen=True)
class Activations:
    """What the forward pass of `SimpleUNet` leaves for the backward pass.

    Attributes
    ----------
    embedding : ndarray, shape (B, embedding)
        e(t).
    h_1, h_2 : ndarray, shape (B, H, W, width)
        The hidden layers after their ReLU, channels last.
    patches_1, patches_2, patches_3 : ndarray, shape (B H W, 9 in)
        What each convolution's windows see.
    """

    embedding: Array
    h_1: Array
    h_2: Array
    patches_1: Array
    patches_2: Array
    patches_3: Array


class SimpleUNet:
    """The chapter's network eps_theta(x_t, t), with the timestep as an input that counts.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        From `initial_parameters`, or a PyTorch module's: names and shapes of `parameter_shapes`, all of one floating
        type, which is the type that the network computes in and returns.
    """

    def __init__(self, parameters: Mapping[str, Array]) -> None:
        names = list(parameter_shapes())
        if sorted(parameters) != sorted(names):
            raise ValueError(f"parameters must be {', '.join(names)}; got {', '.join(parameters)}")
        self.parameters = {name: np.asarray(parameters[name]) for name in names}
        shapes = {name: array.shape for name, array in self.parameters.items()}
        if len(shapes["time.weight"]) != 2 or len(shapes["conv3.bias"]) != 1:
            raise ValueError(f"time.weight must have 2 axes and conv3.bias 1, got shapes {shapes}")
        width, embedding = shapes["time.weight"]
        self.channels = shapes["conv3.bias"][0]
        if shapes != (fitting := parameter_shapes(self.channels, width, embedding)):
            raise ValueError(f"parameters have shapes {shapes}, which should be {fitting}")
        dtypes = {array.dtype for array in self.parameters.values()}
        if len(dtypes) != 1 or not np.issubdtype(self.dtype, np.floating):
            raise ValueError(f"parameters must share one floating type, got {sorted(map(str, dtypes))}")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The floating type that the network computes in."""
        return self.parameters["conv3.bias"].dtype

    def __call__(self, x: ArrayLike, t: ArrayLike) -> Array:
        """eps_theta(x, t); arguments, result and errors as for `forward`."""
        return self.forward(x, t)[0]

    def forward(self, x: ArrayLike, t: ArrayLike) -> tuple[Array, Activations]:
        """eps_theta(x, t), and what the backward pass needs.

        Parameters
        ----------
        x : array_like, shape (B, C, H, W)
            Noisy images x_t.
        t : array_like of int, shape (B,)
            One for each image.

        Returns
        -------
        output : ndarray, shape (B, C, H, W)
            The predicted noise.
        activations : Activations
        """
        x, t = floats(x=x)[0].astype(self.dtype), array("t", t)
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"x must have shape (B, {self.channels}, H, W), got {x.shape}")
        if t.shape != x.shape[:1]:
            raise ValueError(f"t must have shape ({len(x)},), a timestep for each image, got {t.shape}")
        p = self.parameters
        e = timestep_embedding(t, p["time.weight"].shape[1]).astype(self.dtype)
        time = e @ p["time.weight"].T + p["time.bias"]  # (B, width)
        a_1, patches_1 = _convolve(x.transpose(0, 2, 3, 1), p["conv1.weight"], p["conv1.bias"])
        h_1 = np.maximum(a_1 + time[:, None, None, :], 0)
        a_2, patches_2 = _convolve(h_1, p["conv2.weight"], p["conv2.bias"])
        h_2 = np.maximum(a_2, 0)
        output, patches_3 = _convolve(h_2, p["conv3.weight"], p["conv3.bias"])
        return output.transpose(0, 3, 1, 2), Activations(e, h_1, h_2, patches_1, patches_2, patches_3)

    def backward(self, activations: Activations, grad_output: ArrayLike) -> tuple[Parameters, Array]:
        """Gradients of a loss L, the chain rule from the output back to the parameters and the input.

        With g = dL/d(output of a layer) for a convolution y = x * W + b or the linear layer,

            dL/db = sum g,   dL/dW = sum g x,   dL/dx = g * W turned by 180 degrees

        and a ReLU lets g through where its output is positive.

        Parameters
        ----------
        activations : Activations
            From `forward`.
        grad_output : array_like, shape (B, C, H, W)
            dL/d(output).

        Returns
        -------
        gradients : dict of str to ndarray
            dL/d(parameter) under the parameter's name.
        grad_x : ndarray, shape (B, C, H, W)
            dL/dx.
        """
        g = floats(grad_output=grad_output)[0].astype(self.dtype)
        batch, height, across, _ = activations.h_1.shape
        if g.shape != (batch, self.channels, height, across):
            raise ValueError(f"grad_output must have shape {batch, self.channels, height, across}, got {g.shape}")
        p, gradients = self.parameters, {}
        g = g.transpose(0, 2, 3, 1)
        gradients["conv3.weight"], gradients["conv3.bias"] = _parameter_gradients(g, activations.patches_3)
        g = _convolve_transposed(g, p["conv3.weight"]) * (activations.h_2 > 0)
        gradients["conv2.weight"], gradients["conv2.bias"] = _parameter_gradients(g, activations.patches_2)
        g = _convolve_transposed(g, p["conv2.weight"]) * (activations.h_1 > 0)
        gradients["conv1.weight"], gradients["conv1.bias"] = _parameter_gradients(g, activations.patches_1)
        g_time = g.sum((1, 2))  # (B, width)
        gradients["time.weight"], gradients["time.bias"] = g_time.T @ activations.embedding, g_time.sum(0)
        return gradients, _convolve_transposed(g, p["conv1.weight"]).transpose(0, 3, 1, 2)


def _timesteps(t: ArrayLike) -> NDArray[np.float64]:
    given = array("t", t)
    if given.dtype.kind not in "iuf":
        raise TypeError(f"t must be numbers, got {given.dtype}")
    if given.ndim != 1:
        raise ValueError(f"t must have shape (B,), got {given.shape}")
    return given.astype(np.float64)


def _even(name: str, value: int) -> int:
    number = integer(name, value, 2, MOST)
    if number % 2:
        raise ValueError(f"{name} must be even, got {value}")
    return number


def _patches(x: Array) -> Array:
    """The 3x3 windows of x, with zeros around it: (B, H, W, C) -> (B H W, 9 C)."""
    batch, height, across, channels = x.shape
    padded = np.zeros((batch, height + 2, across + 2, channels), x.dtype)
    padded[:, 1:-1, 1:-1] = x
    windows = sliding_window_view(padded, (3, 3), (1, 2))  # (B, H, W, C, 3, 3)
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 9 * channels)


def _convolve(x: Array, weight: Array, bias: Array) -> tuple[Array, Array]:
    """y[i, j, o] = b[o] + sum W[o, c, k, l] x[i + k - 1, j + l - 1, c], and the patches of x."""
    patches = _patches(x)
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))  # (9 C, O)
    return (patches @ matrix + bias).reshape(*x.shape[:3], -1), patches


def _convolve_transposed(g: Array, weight: Array) -> Array:
    """dL/dx of `_convolve`: x[i + k - 1] fed y[i] through W[k], so g[i] flows back to it through W[k]."""
    turned = weight[:, :, ::-1, ::-1].swapaxes(0, 1)
    return _convolve(g, turned, np.zeros((), g.dtype))[0]


def _parameter_gradients(g: Array, patches: Array) -> tuple[Array, Array]:
    """dL/dW, shape (O, C, 3, 3), and dL/db, shape (O,), of `_convolve`."""
    rows = g.reshape(len(patches), -1)  # (B H W, O)
    matrix = patches.T @ rows  # (9 C, O)
    return matrix.reshape(3, 3, -1, rows.shape[1]).transpose(3, 2, 0, 1), rows.sum(0)
