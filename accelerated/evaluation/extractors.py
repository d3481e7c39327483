"""Features of other networks, by name. Nothing is downloaded: what is not on this machine is an error that says so."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import RunError
from .features import BATCH, Features

# the network of the FID, as StyleGAN and clean-fid use it: pixels to 2048 features, resizing included
INCEPTION = "inception-2015-12-05.pt"
INCEPTION_ADDRESS = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{INCEPTION}"

# pixels 0..255, uint8 (N, C, H, W), to features (N, D)
Extractor = Callable[[Tensor], Tensor]


def load_features(name: str, shape: tuple[int, int, int], device: torch.device) -> Features:
    """The features that a name stands for, tried on two images of a shape (C, H, W).

    Parameters
    ----------
    name : str
        - `inception`: the Inception network of the FID
        - `torchvision:NAME`: what enters the last linear layer of that model, with torchvision's default weights
        - `FILE.pt`: a TorchScript module
        - `module:function`: a function of Python, also of a file in the working folder

        The last two get pixels 0..255, uint8 (N, C, H, W), on the device, and return features, (N, D).
    shape : (C, H, W)
    device : torch.device

    Raises
    ------
    RunError
        No such features, weights that are not on this machine, or features of another form.
    """
    if name == "inception":
        extract = _inception(device)
    elif name.startswith("torchvision:"):
        extract = _torchvision(name.removeprefix("torchvision:"), device)
    elif name.endswith(".pt"):
        extract = _script(Path(name), device)
    elif ":" in name:
        extract = _function(name)
    else:
        raise RunError(
            f"--features is {name!r}; allowed: auto, pixels, learned, inception, torchvision:NAME, FILE.pt "
            "(TorchScript), module:function"
        )

    def transform(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        parts = []
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            with torch.no_grad():
                found = torch.as_tensor(extract(torch.from_numpy(batch).to(device)))
            if found.ndim != 2 or len(found) != len(batch) or not found.isfinite().all():
                raise RunError(
                    f"--features {name}: {len(batch)} images gave {tuple(found.shape)}; expected finite numbers "
                    f"({len(batch)}, D)"
                )
            parts.append(found.double().cpu().numpy())
        return np.concatenate(parts)

    # before any work, and not at the end of a training
    try:
        dimension = transform(np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)).shape[1]
    except RunError:
        raise
    except Exception as error:
        raise RunError(f"--features {name}: images {shape} (C, H, W) cannot be given to it: {error}") from error
    return Features(f"{name} ({dimension} dimensions)", transform)


def _script(path: Path, device: torch.device) -> nn.Module:
    try:
        module: nn.Module = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        if not path.is_file():
            raise RunError(f"--features {path}: no such file") from None
        raise RunError(f"--features {path}: not a TorchScript module ({str(error).splitlines()[0]})") from None
    return module


def _inception(device: torch.device) -> Extractor:
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    if not path.is_file():
        raise RunError(
            f"--features inception needs the file {path}, which is not there and is not downloaded unasked; "
            f"it is at {INCEPTION_ADDRESS}"
        )
    module = _script(path, device)

    def extract(images: Tensor) -> Tensor:
        features: Tensor = module(_in_colour(images), return_features=True)
        return features

    return extract


def _torchvision(name: str, device: torch.device) -> Extractor:
    try:
        from torchvision import models  # type: ignore[import-not-found]
    except ModuleNotFoundError:
        raise RunError(f"--features torchvision:{name} needs torchvision, which is not installed") from None
    try:
        weights = models.get_model_weights(name).DEFAULT
    except ValueError as error:
        raise RunError(f"--features torchvision:{name}: {error}") from None
    path = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(weights.url)
    if not path.is_file():
        raise RunError(
            f"--features torchvision:{name} needs the file {path}, which is not there and is not downloaded unasked; "
            f"it is at {weights.url}"
        )
    model = models.get_model(name)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model.to(device).eval()
    *_, last = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    entered: list[Tensor] = []
    last.register_forward_pre_hook(lambda layer, given: entered.append(given[0]))
    prepare = weights.transforms()

    def extract(images: Tensor) -> Tensor:
        entered.clear()
        model(prepare(_in_colour(images)))
        return entered[0]

    return extract


def _function(name: str) -> Extractor:
    module, _, function = name.partition(":")
    # as `python -m` does; the command `noisestep` has its own folder there
    sys.path.insert(0, os.getcwd())
    try:
        found: Extractor = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise RunError(f"--features {name}: {error}") from None
    finally:
        sys.path.remove(os.getcwd())
    return found


def _in_colour(images: Tensor) -> Tensor:
    """Grey as RGB, and RGBA without its alpha."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]
