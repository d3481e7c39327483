"""Images to train on and to compare with: folders, NumPy arrays, IDX files and the digits of scikit-learn."""

from .errors import DataError
from .image_set import ImageSet
from .load import load_images
from .split import stratified_split

__all__ = ["DataError", "ImageSet", "load_images", "stratified_split"]
