"""What the networks refuse, each with both sides of the disagreement."""

import torch
from torch import Tensor


def check_image(x: Tensor, channels: int, stride: int = 1) -> None:
    """Refuse images that are not (B, channels, H, W) with H and W multiples of `stride`."""
    if x.ndim != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}: expected (B, C, H, W)")
    if x.shape[1] != channels:
        raise ValueError(f"x has {x.shape[1]} channels: this network was built for {channels}")
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}: expected a floating-point image")
    for name, side in (("height", x.shape[2]), ("width", x.shape[3])):
        if side < 1 or side % stride:
            raise ValueError(f"x has {name} {side}: this network's strides need a multiple of {stride}")


def check_timestep(t: Tensor, x: Tensor) -> None:
    """Refuse timesteps that are not one number for each image."""
    if t.shape != x.shape[:1]:
        raise ValueError(f"t has shape {tuple(t.shape)}: expected ({x.shape[0]},), one for each image")


def check_label(label: Tensor, x: Tensor, num_classes: int | None) -> None:
    """Refuse labels for a network without classes, of the wrong shape or dtype, or (on a CPU) out of range.

    On other devices the range is not looked at, for that would read the device; there the embedding's own
    bounds check stands.  Nor is it under `torch.compile`, where values are not known.
    """
    if num_classes is None:
        raise ValueError("label was given, but this network has no classes (num_classes=None)")
    if label.shape != x.shape[:1]:
        raise ValueError(f"label has shape {tuple(label.shape)}: expected ({x.shape[0]},), one for each image")
    if label.dtype != torch.int64:
        raise TypeError(f"label has dtype {label.dtype}: expected torch.int64")
    if label.device.type == "cpu" and label.numel() and not torch.compiler.is_compiling():
        low, high = int(label.min()), int(label.max())
        if low < 0 or high > num_classes:
            worst = low if low < 0 else high
            raise ValueError(f"label {worst}: expected 0..{num_classes - 1}, or {num_classes} for no label")
