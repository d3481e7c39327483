"""The chapter's network: three convolutions, and a timestep that is really used."""

import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_image, check_timestep
from .embedding import timestep_embedding


class SimpleUNet(nn.Module):
    r"""The chapter's `SimpleUNet`, told the timestep.

    .. math:: h_1 = \mathrm{relu}(K_1 * x_t + W e(t) + b), \quad h_2 = \mathrm{relu}(K_2 * h_1), \quad
        \epsilon_\theta = K_3 * h_2

    The chapter's own ``forward`` ignores t and leaves a comment where it should enter.  Here it enters as a
    linear map of its sinusoidal embedding, added to every pixel after the first convolution.

    Parameters
    ----------
    channels : int
        Channels of the image and of the output.
    width : int
        Channels between the convolutions.
    embedding : int
        Features of the timestep's embedding, even.
    """

    def __init__(self, channels: int = 3, width: int = 64, embedding: int = 64) -> None:
        super().__init__()
        for name, value in (("channels", channels), ("width", width)):
            if value < 1:
                raise ValueError(f"{name}={value}: expected at least 1")
        if embedding < 2 or embedding % 2:
            raise ValueError(f"embedding={embedding}: expected an even number, at least 2")
        self.channels = channels
        self.embedding = embedding
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, channels, 3, padding=1)
        self.time = nn.Linear(embedding, width)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The network's output for noisy images x at the timesteps t.

        Parameters
        ----------
        x : Tensor, shape (B, C, H, W), float
        t : Tensor, shape (B,), int64
            Timestep numbers, 1..T of the original chain.
        label : None
            Accepted so that every network is called alike; this one knows no classes.

        Returns
        -------
        Tensor, shape (B, C, H, W)

        Raises
        ------
        ValueError
            If a shape disagrees, or a label is given.
        """
        check_image(x, self.channels)
        check_timestep(t, x)
        if label is not None:
            raise ValueError("label was given, but SimpleUNet has no class embedding; expected None")
        time = self.time(timestep_embedding(t, self.embedding).to(self.time.weight.dtype))
        h = F.relu(self.conv1(x) + time[:, :, None, None])  # (B, width, H, W)
        h = F.relu(self.conv2(h))
        return self.conv3(h)  # (B, C, H, W)
