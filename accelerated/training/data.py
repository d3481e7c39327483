"""The images of a run: the split into training and held-out images, and the record by which a run knows them again."""

from dataclasses import dataclass
from typing import Self

from ..data import DataError, ImageSet, ImageStream, is_tar, load_images, stratified_split
from ..errors import CheckpointError
from .config import DataConfig


@dataclass(frozen=True)
class DataRecord:
    """What a run stores about its images.

    Attributes
    ----------
    fingerprint : str
        `ImageSet.fingerprint` of all images, training and held-out.
    shape : tuple of int
        (C, H, W) of one image.
    class_names : tuple of str
        Empty if the images have no labels.
    """

    fingerprint: str
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]

    def require(self, found: "DataRecord", source: str) -> None:
        """Raise `CheckpointError` if `found`, the record of the images at `source`, differs from this one."""
        if found.shape != self.shape:
            raise CheckpointError(
                f"{source}: images of shape {found.shape} (C, H, W); the run was trained on {self.shape}"
            )
        if found.fingerprint != self.fingerprint:
            raise CheckpointError(f"{source}: not the images of this run any more (their fingerprint differs)")


@dataclass(frozen=True)
class Split:
    """The images of a run: those to train on, those held out, and the record of both together."""

    train: ImageSet | ImageStream
    held_out: ImageSet | ImageStream
    record: DataRecord

    @classmethod
    def load(cls, config: DataConfig, *, at_least: int = 1) -> Self:
        """Load the images that a configuration names, and split them.

        Parameters
        ----------
        config : DataConfig
        at_least : int
            Images that each part needs: `evaluation.evaluate.MIN_IMAGES` if the run is to be evaluated.

        Raises
        ------
        DataError
            Images that cannot be read, or a part with too few of them.
        """
        images: ImageSet | ImageStream
        if config.stream or is_tar(config.source):
            images = ImageStream.open(config.source, size=config.size, channels=config.channels, fit=config.fit)
        else:
            images = load_images(config.source, size=config.size, channels=config.channels, fit=config.fit)
        labels_or_n = len(images) if images.labels is None else images.labels
        parts = stratified_split(labels_or_n, fraction=config.held_out, seed=config.split_seed)
        for name, part in zip(("to train on", "held out"), parts, strict=True):
            if len(part) < at_least:
                raise DataError(
                    f"{config.source}: {len(images)} images with a fraction of {config.held_out:g} held out leave "
                    f"{len(part)} {name}; the evaluation needs at least {at_least}"
                )
        record = DataRecord(images.fingerprint, images.shape, images.class_names)
        return cls(images.subset(parts[0]), images.subset(parts[1]), record)
