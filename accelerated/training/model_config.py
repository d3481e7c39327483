"""The model of a run: chosen for its images, or checked against them."""

from dataclasses import replace

from ..errors import RunError
from ..models import UNetConfig
from .config import TrainConfig
from .data import DataRecord


def with_model(config: TrainConfig, record: DataRecord) -> TrainConfig:
    """The configuration with a model for these images: its own if it has one, or else `UNetConfig.for_image`.

    Raises
    ------
    RunError
        Its own model, or guidance, does not fit the images.
    """
    channels, height, width = record.shape
    num_classes = len(record.class_names) if config.conditional and record.class_names else None
    if num_classes is None and config.sample.guidance != 1.0:
        raise RunError(f"guidance is {config.sample.guidance:g}, but the images have no labels: only 1 is possible")
    if config.model is None:
        model = UNetConfig.for_image(channels, height, width, num_classes)
        return replace(config, model=replace(model, dropout=config.dropout))
    if config.model.dropout not in (0, config.dropout):
        raise RunError(
            f"model: dropout is {config.model.dropout:g}, but that of training is {config.dropout:g}; "
            "leave it out of the model"
        )
    model = replace(config.model, dropout=config.dropout)
    needed = {"in_channels": channels, "out_channels": channels, "num_classes": num_classes}
    for name, value in needed.items():
        if (given := getattr(model, name)) != value:
            raise RunError(f"model: {name} is {given}, but the images need {value}")
    if height % model.stride or width % model.stride:
        raise RunError(
            f"model: {len(model.channels)} levels need sides that are multiples of {model.stride}; "
            f"the images are {height}×{width}"
        )
    return replace(config, model=model)
