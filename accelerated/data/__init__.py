"""Images to train on and to compare with: folders, NumPy arrays, IDX files and the digits of scikit-learn."""

from .errors import DataError
from .image_set import ImageSet
from .index import is_tar
from .load import load_images
from .pixels import read_image
from .split import stratified_split
from .stream import ImageStream

__all__ = ["DataError", "ImageSet", "ImageStream", "is_tar", "load_images", "read_image", "stratified_split"]
