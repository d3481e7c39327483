"""The 1,797 handwritten digits that are installed with scikit-learn, read without importing it."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def load_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Real images x_0, the test set of Alpaydin and Kaynak's "Optical Recognition of Handwritten Digits" (UCI, 1998).

    A pixel counts the inked cells of a 4x4 block, 0..16, and is scaled to [-1, 1] as x / 8 - 1, exactly.

    Returns
    -------
    images : ndarray of float64, shape (1797, 1, 8, 8), in [-1, 1]
    labels : ndarray of int64, shape (1797,), in 0..9

    Raises
    ------
    FileNotFoundError
        If scikit-learn is not installed, or without its data.
    """
    # only the file is wanted: scikit-learn itself is found, never imported
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise FileNotFoundError("the digits ship with scikit-learn, which is not installed")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise FileNotFoundError(f"scikit-learn is installed without its digits: there is no {path}")
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    return table[:, :64].reshape(-1, 1, 8, 8) / 8 - 1, table[:, 64].astype(np.int64)
