"""The shape of a U-Net, as a value that can be written to JSON and read back."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from noisestep.reference._arguments import as_int, integer


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a `UNet`: level 0 works at full resolution, and each further level at half the one above.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    out_channels : int
        Channels of the output: as many as `in_channels`, or twice that where the variance is learned too.
    channels : tuple of int
        Width of each level.
    blocks : int
        Residual blocks of each level on the way down, and as many on the way up.
    attention : tuple of int
        The levels whose blocks are followed by self-attention.
    middle : int
        Blocks between the two ways, at the deepest level.
    head : int
        Channels of an attention head; divides the width of every level with attention.
    embedding : int
        Width of the embedding of timestep and label.
    groups : int
        Groups of the normalisations; divides the width of every level.
    dropout : float
        Share of activations dropped inside each residual block while training.
    num_classes : int or None
        Number of classes the network can be told; None for a network without labels.

    Raises
    ------
    TypeError, ValueError
        If a value is no integer or too small, or the values disagree with each other; the message names both.
    """

    in_channels: int = 3
    out_channels: int = 3
    channels: tuple[int, ...] = (64, 128, 256)
    blocks: int = 2
    attention: tuple[int, ...] = (1, 2)
    middle: int = 2
    head: int = 64
    embedding: int = 256
    groups: int = 32
    dropout: float = 0.0
    num_classes: int | None = None

    def __post_init__(self) -> None:
        # json has no tuples, so what it read back as lists is accepted
        for name in ("channels", "attention"):
            values = getattr(self, name)
            if not isinstance(values, Iterable):
                raise TypeError(f"{name} must be a sequence of ints, got {values!r}")
            object.__setattr__(self, name, tuple(as_int(name, value) for value in values))
        for name in ("in_channels", "out_channels", "blocks", "middle", "head", "embedding", "groups"):
            object.__setattr__(self, name, integer(name, getattr(self, name), 1))
        if self.num_classes is not None:
            object.__setattr__(self, "num_classes", integer("num_classes", self.num_classes, 1))
        if self.out_channels not in (self.in_channels, 2 * self.in_channels):
            raise ValueError(
                f"out_channels={self.out_channels}: expected {self.in_channels} (as in_channels), "
                f"or {2 * self.in_channels} where the variance is learned too"
            )
        if not self.channels:
            raise ValueError("channels=(): expected a width for each level, at least one")
        for width in self.channels:
            if width < 1 or width % self.groups:
                raise ValueError(f"channels={self.channels}: {width} is no multiple of groups={self.groups}")
        if self.channels[0] % 2:
            raise ValueError(f"channels={self.channels}: the first width must be even, for sines and cosines")
        for level in self.attention:
            if not 0 <= level < len(self.channels):
                raise ValueError(f"attention={self.attention}: levels are 0..{len(self.channels) - 1}")
            if self.channels[level] % self.head:
                raise ValueError(
                    f"head={self.head}: it must divide the width {self.channels[level]} of level {level}, "
                    "which has attention"
                )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout}: expected 0 <= dropout < 1")

    @property
    def stride(self) -> int:
        """What height and width must be multiples of: 2 to the number of halvings."""
        return 2 ** (len(self.channels) - 1)

    @classmethod
    def for_image(
        cls,
        channels: int,
        height: int,
        width: int,
        num_classes: int | None = None,
        *,
        learned_variance: bool = False,
    ) -> "UNetConfig":
        """A sensible network for images of this shape, smaller for smaller images.

        Only as many levels are kept as both sides can be halved, so any height and width will do; sides that
        are odd, or odd after one halving, get a shallow network and are better padded.

        Parameters
        ----------
        channels, height, width : int
            Shape of the image.
        num_classes : int or None
            Number of classes, None for none.
        learned_variance : bool
            Whether the output holds a second set of channels, for the variance.

        Returns
        -------
        UNetConfig

        Raises
        ------
        ValueError
            If a number is not positive.
        """
        channels, height, width = (
            integer(name, value, 1) for name, value in (("channels", channels), ("height", height), ("width", width))
        )
        preset = next(preset for largest, preset in _PRESETS if max(height, width) <= largest)
        levels = len(preset["channels"])
        while height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
            levels -= 1
        return cls(
            **preset
            | {
                "in_channels": channels,
                "out_channels": channels * (2 if learned_variance else 1),
                "channels": preset["channels"][:levels],
                "attention": tuple(level for level in preset["attention"] if level < levels),
                "num_classes": num_classes,
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dict of JSON's own types."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "UNetConfig":
        """The configuration that `to_dict` wrote.

        Raises
        ------
        ValueError
            If a field is unknown, naming it and those there are.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"unknown field {name!r} of a U-Net: expected {', '.join(known)}")
        return cls(**values)


# the largest side each preset is meant for; attention from 16 x 16 downwards, as in Ho et al. 2020, section 4
_PRESETS: tuple[tuple[float, dict[str, Any]], ...] = (
    # tuned for the 8 x 8 digits on two CPU cores: most parameters sit where there are few pixels
    (
        12,
        {
            "channels": (24, 48, 96),
            "blocks": 1,
            "attention": (1,),
            "middle": 1,
            "head": 24,
            "embedding": 128,
            "groups": 8,
        },
    ),
    (32, {"channels": (64, 128, 128), "attention": (1, 2), "head": 32, "embedding": 256}),
    (64, {"channels": (96, 192, 288, 384), "attention": (2, 3), "head": 32, "embedding": 384}),
    (math.inf, {"channels": (128, 128, 256, 256, 512), "attention": (4,), "head": 64, "embedding": 512}),
)
