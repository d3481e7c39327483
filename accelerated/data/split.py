"""Two disjoint parts of the data: one to train on, one to judge by."""

from typing import Any

import numpy as np
from noisestep.reference._arguments import as_int
from numpy.typing import NDArray

from .errors import DataError


def stratified_split(
    labels_or_n: NDArray[Any] | int, *, fraction: float = 0.5, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Shuffle the numbers of the samples and split them, every class in the same proportion.

    Exactly `sklearn.model_selection.train_test_split(arange(N), test_size=fraction, stratify=labels,
    random_state=seed)`: N·fraction samples, rounded up, are held out.

    Parameters
    ----------
    labels_or_n : integer array (N,), or int
        The class of each sample; or, where there are no classes, the number of samples.
    fraction : float
        The share that is held out, between 0 and 1, both excluded.
    seed : int
        0..2³² − 1.

    Returns
    -------
    train, held_out : int64 arrays
        Sample numbers, shuffled; each of 0..N−1 is in exactly one of them.

    Raises
    ------
    DataError
        If a part would be empty or too small to have every class in it, or a class has a single sample, which
        cannot be on both sides.
    """
    # scikit-learn takes about a second to import, which sampling need not wait for
    from sklearn.model_selection import train_test_split

    if not 0 < fraction < 1:
        raise DataError(f"the fraction held out must be between 0 and 1, both excluded, got {fraction}")
    seed = as_int("seed", seed)
    if not 0 <= seed < 2**32:
        raise DataError(f"the seed of a split must be in 0..2**32 - 1, got {seed}")
    labels = np.asarray(labels_or_n) if np.ndim(labels_or_n) else None
    count = as_int("the number of images", labels_or_n) if labels is None else len(labels)
    if count < 2:
        raise DataError(f"a split needs at least 2 images, got {count}")
    if labels is not None:
        values, sizes = np.unique(labels, return_counts=True)
        if sizes.min() < 2:
            raise DataError(f"a split needs 2 images of each class or more, class {values[sizes.argmin()]} has 1")
        held_out = int(np.ceil(count * fraction))
        if min(held_out, count - held_out) < len(values):
            raise DataError(
                f"{count} images with {fraction} held out split into {count - held_out} and {held_out}, "
                f"but each part needs one of each of the {len(values)} classes"
            )
    elif int(np.ceil(count * fraction)) == count:
        raise DataError(f"holding out {fraction} of {count} images leaves none to train on")
    train, test = train_test_split(
        np.arange(count, dtype=np.int64), test_size=float(fraction), stratify=labels, random_state=seed
    )
    return train, test
