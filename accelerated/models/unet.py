"""The U-Net: residual blocks at falling and rising resolution, told the timestep and, if asked, the class."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_image, check_label, check_timestep
from .embedding import timestep_embedding
from .unet_config import UNetConfig


class ResidualBlock(nn.Module):
    r"""Two convolutions around a normalisation that the embedding scales and shifts, beside a straight path.

    .. math:: h = K_1 * \mathrm{silu}(\mathrm{norm}(x)), \qquad
        y = P x + K_2 * \mathrm{silu}\big((1 + s(e))\, \mathrm{norm}(h) + b(e)\big)

    The scale-shift normalisation is Nichol & Dhariwal 2021's; K_2 starts at zero, so that a new block is its
    straight path.
    """

    def __init__(self, before: int, after: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.groups, before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.modulation = nn.Linear(config.embedding, 2 * after)
        self.norm2 = nn.GroupNorm(config.groups, after)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        _zero(self.conv2)
        self.straight = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(e)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.straight(x) + self.conv2(self.dropout(F.silu(h)))


class SelfAttention(nn.Module):
    """Softmax attention among the pixels of an image, beside a straight path; its last map starts at zero."""

    def __init__(self, width: int, config: UNetConfig) -> None:
        super().__init__()
        self.heads = width // config.head
        self.norm = nn.GroupNorm(config.groups, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        _zero(self.out)

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, breadth = x.shape
        pixels = self.norm(x).permute(0, 2, 3, 1).reshape(batch, height * breadth, width)  # (B, N, C)
        qkv = self.qkv(pixels).view(batch, height * breadth, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, N, C / heads) each
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, height * breadth, width)
        return x + self.out(h).view(batch, height, breadth, width).permute(0, 3, 1, 2)  # (B, C, H, W)


class Double(nn.Module):
    """Twice the resolution: a 1 x 1 convolution, first because it is cheaper there, then 4 copies of each pixel."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.conv(x), scale_factor=2.0)


class Stage(nn.Module):
    """A residual block, self-attention at the levels that have it, and a change of level before or after."""

    def __init__(self, config: UNetConfig, level: int, before: int, enter: nn.Module, leave: nn.Module) -> None:
        super().__init__()
        width = config.channels[level]
        self.enter = enter
        self.block = ResidualBlock(before, width, config)
        self.attention = SelfAttention(width, config) if level in config.attention else nn.Identity()
        self.leave = leave

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return self.leave(self.attention(self.block(self.enter(x), e)))


class UNet(nn.Module):
    """A U-Net for denoising (Ho et al. 2020, section 4; scale-shift as Nichol & Dhariwal 2021).

    Each level has `blocks` stages on the way down and as many on the way up; a stage on the way up also sees
    what its mirror on the way down handed out.  Resolution halves by a 2 x 2 convolution of stride 2.  The
    output convolution starts at zero: an untrained network says 0 everywhere.

    What the output means (ε, x_0, a velocity) is the loss's affair; with `out_channels` twice `in_channels`, its
    second half is for the variance.

    Parameters
    ----------
    config : UNetConfig
        The shape; `UNetConfig.for_image` has one for every image size.

    Notes
    -----
    Activations are channels_last whatever the layout of x: convolutions and attention then transpose nothing,
    on CPUs and GPUs alike.  Parameters keep PyTorch's own layout, which is what a checkpoint wants.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.channels
        levels, deepest = range(len(widths)), len(widths) - 1
        self.time1 = nn.Linear(2 * widths[0], config.embedding)
        self.time2 = nn.Linear(config.embedding, config.embedding)
        # the row after the last class stands for "no label"
        rows = None if config.num_classes is None else config.num_classes + 1
        self.label = None if rows is None else nn.Embedding(rows, config.embedding)
        self.stem = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down, self.middle, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level in levels:
            for block in range(config.blocks):
                first = level > 0 and block == 0
                halve = nn.Conv2d(widths[level - 1], widths[level], 2, stride=2) if first else nn.Identity()
                self.down.append(Stage(config, level, widths[level], halve, nn.Identity()))
        for _ in range(config.middle):
            self.middle.append(Stage(config, deepest, widths[-1], nn.Identity(), nn.Identity()))
        for level in reversed(levels):
            for block in range(config.blocks):
                last = level > 0 and block == config.blocks - 1
                double = Double(widths[level], widths[level - 1]) if last else nn.Identity()
                self.up.append(Stage(config, level, 2 * widths[level], nn.Identity(), double))
        self.norm = nn.GroupNorm(config.groups, widths[0])
        self.out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)
        _zero(self.out)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The network's output for noisy images x at the timesteps t.

        Parameters
        ----------
        x : Tensor, shape (B, in_channels, H, W), float
            H and W multiples of `config.stride`.
        t : Tensor, shape (B,), int64
            Timestep numbers, 1..T of the original chain.
        label : Tensor, shape (B,), int64, or None
            Classes 0..num_classes-1, or num_classes for "no label"; None means "no label" for all.

        Returns
        -------
        Tensor, shape (B, out_channels, H, W)

        Raises
        ------
        ValueError, TypeError
            If a shape, a dtype or (on a CPU) a label is not as above.
        """
        check_image(x, self.config.in_channels, self.config.stride)
        check_timestep(t, x)
        e = F.silu(self._embed(t, label, x))  # (B, embedding)
        h = self.stem(x).contiguous(memory_format=torch.channels_last)
        handed = []
        for stage in self.down:
            h = stage(h, e)
            handed.append(h)
        for stage in self.middle:
            h = stage(h, e)
        for stage in self.up:
            h = stage(torch.cat([h, handed.pop()], dim=1), e)
        return self.out(F.silu(self.norm(h)))

    def _embed(self, t: Tensor, label: Tensor | None, x: Tensor) -> Tensor:
        """Embedding of the timestep plus that of the class, shape (B, embedding)."""
        sines = timestep_embedding(t, self.time1.in_features)
        e = self.time2(F.silu(self.time1(sines.to(self.time1.weight.dtype))))
        if label is not None:
            check_label(label, x, self.config.num_classes)
        if self.label is None:
            return e
        # only a network with classes gets here, so the number of its last row is that of "no label"
        rows = torch.full_like(t, self.label.num_embeddings - 1) if label is None else label
        return e + self.label(rows)


def _zero(layer: nn.Conv2d | nn.Linear) -> None:
    """Set the layer's weights and bias to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
