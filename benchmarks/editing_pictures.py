"""The pictures of docs/editing.md, drawn by a run on the digits: python -m benchmarks.editing_pictures RUN."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from noisestep.accelerated.cli.pictures import grid, save_png, to_uint8
from noisestep.accelerated.cli.run_folder import RunFolder
from noisestep.accelerated.data import load_images
from noisestep.accelerated.samplers.editing import Edit
from noisestep.accelerated.training.trained import TrainedModel
from noisestep.reference import x_T_between
from torch import Tensor

IMAGES = Path(__file__).parent.parent / "docs" / "images"
# the first digit of each class of scikit-learn's 1,797
DIGITS = torch.tensor(load_images("digits").images[:10], dtype=torch.float32) / 127.5 - 1
HALF = torch.arange(8).expand(8, 8) < 4


def draw(model: TrainedModel, labels: list[int], **options: object) -> Tensor:
    """Samples of these classes, by the settings of the run but for those that are given."""
    own = {name: options.pop(name) for name in ("eta", "temperature") if name in options}
    settings = replace(model.config.sample, count=len(labels), seed=0, **own)  # type: ignore[arg-type]
    return model.sample(settings, labels=torch.tensor(labels), **options).images  # type: ignore[arg-type]


def image_to_image(model: TrainedModel) -> Tensor:
    """A 3 that is asked to be an 8: a row for each strength, with the 3 in front."""
    rows = [
        torch.cat([DIGITS[3:4], draw(model, [8] * 9, edit=Edit(DIGITS[3], strength))])
        for strength in (0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    return torch.cat(rows)


def inpainting(model: TrainedModel) -> Tensor:
    """Ten digits, what is known of them, and their left halves made anew: by replacement, and by RePaint."""
    known = torch.where(HALF, 1.0, DIGITS)
    once, repainted = (
        draw(model, list(range(10)), edit=Edit(DIGITS, mask=HALF, resample=resample)) for resample in (1, 10)
    )
    return torch.cat([DIGITS, known, once, repainted])


def interpolation(model: TrainedModel) -> Tensor:
    """Between two samples of a class, in three rows."""
    fractions = torch.linspace(0, 1, 10).numpy()
    rows = []
    for label, k, other in ((2, 0, 1), (4, 2, 3), (8, 4, 5)):
        x_T = torch.from_numpy(x_T_between(0, k, other, fractions, (1, 8, 8))).float()
        rows.append(draw(model, [label] * 10, x_T=x_T, eta=0.0, temperature=1.0))
    return torch.cat(rows)


def main(run: Path) -> None:
    """Draw all pictures."""
    model = TrainedModel.load(RunFolder(run).checkpoints, torch.device("cpu"))
    for picture in (image_to_image, inpainting, interpolation):
        path = IMAGES / f"editing-{picture.__name__.replace('_', '-')}.png"
        save_png(grid(to_uint8(picture(model)), columns=10), path)
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
