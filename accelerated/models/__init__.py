"""Networks that predict the noise."""

from .embedding import timestep_embedding
from .simple_unet import SimpleUNet
from .unet import UNet
from .unet_config import UNetConfig

__all__ = ["SimpleUNet", "UNet", "UNetConfig", "timestep_embedding"]
