"""The pictures of docs/editing.md: python -m benchmarks.editing_pictures RUN.

RUN is a run on the digits with label dropout, which guidance needs: noisestep train --label-dropout 0.1.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from noisestep.accelerated.cli.pictures import grid, save_png, to_uint8
from noisestep.accelerated.cli.run_folder import RunFolder
from noisestep.accelerated.data import load_images
from noisestep.accelerated.samplers.editing import Edit
from noisestep.accelerated.training.trained import TrainedModel
from noisestep.reference import x_T_between
from PIL import Image
from torch import Tensor

IMAGES = Path(__file__).parent.parent / "docs" / "images"
# the first digit of each class of scikit-learn's 1,797
DIGITS = torch.tensor(load_images("digits").images[:10], dtype=torch.float32) / 127.5 - 1
HALF = torch.arange(8).expand(8, 8) < 4
# the scales of guidance, and where the last one guides: the interval of Kynkäänniemi et al. 2024
GUIDANCE = [{"guidance": scale} for scale in (0.0, 1.0, 2.0, 4.0)]
GUIDANCE.append({"guidance": 4.0, "guidance_interval": (0.2, 5.0)})


def draw(
    model: TrainedModel, labels: list[int], *, edit: Edit | None = None, x_T: Tensor | None = None, **settings: Any
) -> Tensor:
    """Samples of these classes, by the settings of the run but for those that are given."""
    sample = replace(model.config.sample, count=len(labels), seed=0, **settings)
    return model.sample(sample, labels=torch.tensor(labels), edit=edit, x_T=x_T).images


def picture(images: Tensor, beside: Sequence[str] = ()) -> Image.Image:
    """Rows of ten, with a text for each row."""
    return grid(to_uint8(images), columns=10, scale=6, padding=2, beside=beside)


def image_to_image(model: TrainedModel) -> Image.Image:
    """A 3 that is asked to be an 8: a row for each strength, with the 3 in front."""
    rows = [
        torch.cat([DIGITS[3:4], draw(model, [8] * 9, edit=Edit(DIGITS[3], strength))])
        for strength in (0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    return picture(torch.cat(rows))


def inpainting(model: TrainedModel) -> Image.Image:
    """Ten digits, what is known of them, and their left halves made anew: by replacement, and by RePaint."""
    known = torch.where(HALF, 1.0, DIGITS)
    once, repainted = (
        draw(model, list(range(10)), edit=Edit(DIGITS, mask=HALF, resample=resample)) for resample in (1, 10)
    )
    return picture(torch.cat([DIGITS, known, once, repainted]))


def interpolation(model: TrainedModel) -> Image.Image:
    """Between two samples of a class, in three rows."""
    fractions = torch.linspace(0, 1, 10).numpy()
    rows = []
    for label, k, other in ((2, 0, 1), (4, 2, 3), (8, 4, 5)):
        x_T = torch.from_numpy(x_T_between(0, k, other, fractions, (1, 8, 8))).float()
        rows.append(draw(model, [label] * 10, x_T=x_T, eta=0.0, temperature=1.0))
    return picture(torch.cat(rows))


def guidance(model: TrainedModel) -> Image.Image:
    """The same ten x_T, a digit of each class, with more and more guidance, and last in an interval."""
    rows = [draw(model, list(range(10)), **settings) for settings in GUIDANCE]
    texts = [f"w = {settings['guidance']:g}" for settings in GUIDANCE]
    texts[-1] += ",\n0.2 to 5"
    return picture(torch.cat(rows), texts)


def main(run: Path) -> None:
    """Draw all pictures."""
    model = TrainedModel.load(RunFolder(run).checkpoints, torch.device("cpu"))
    for drawn in (image_to_image, inpainting, interpolation, guidance):
        path = IMAGES / f"editing-{drawn.__name__.replace('_', '-')}.png"
        save_png(drawn(model), path)
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
