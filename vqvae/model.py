"""The network around the codebook: 64x64 masks to a 4x4 grid of vectors, and back."""

from typing import Final

from torch import Tensor, nn

from vqvae.quantizer import CODE_WIDTH, Quantizer

MASK_SIDE = 64
GRID_SIDE = 4
NUM_TOKENS = GRID_SIDE * GRID_SIDE
SHARPNESS: Final = 4.0
"""Decoded masks are about -1 to 1; a loss that reads them as logits multiplies by this first."""


class ResidualBlock(nn.Module):
    """``x + net(x)``, where ``net`` is 3x3, ReLU, 3x3, ReLU, 1x1 at constant width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(b, width, h, w)`` to the same shape."""
        return x + self.net(x)  # type: ignore[no-any-return]


class MaskVqVae(nn.Module):
    """Google's mask autoencoder, tensor for tensor.

    ``state_dict()`` has the names and shapes of ``vae-oid.npz``; nothing may be renamed or
    reordered here, since the numbers in the names are positions in the two sequences.

    Source:
        google-research/big_vision, ``pp/proj/paligemma/segmentation.py`` (encoder) and
        ``evaluators/proj/paligemma/transfers/segmentation.py`` (decoder).

    Example:
        >>> import torch
        >>> model = MaskVqVae().eval()
        >>> codes = model.encode(torch.zeros(1, 64, 64))
        >>> tuple(codes.shape), tuple(model.decode(model.quantizer.lookup(codes)).shape)
        ((1, 16), (1, 64, 64))
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *_stages(nn.Conv2d, (1, 16, 32, 64, 128)),
            ResidualBlock(128),
            ResidualBlock(128),
            nn.Conv2d(128, CODE_WIDTH, 1),
        )
        self._vq_vae = Quantizer()
        self.decoder = nn.Sequential(
            nn.Conv2d(CODE_WIDTH, 128, 1),
            nn.ReLU(),
            ResidualBlock(128),
            ResidualBlock(128),
            *_stages(nn.ConvTranspose2d, (128, 128, 64, 32, 16)),
            nn.Conv2d(16, 1, 1),
        )

    @property
    def quantizer(self) -> Quantizer:
        """The codebook."""
        return self._vq_vae

    def vectors(self, masks: Tensor) -> Tensor:
        """Map masks ``(b, 64, 64)`` in [0, 1] to encoder outputs ``(b, 16, 512)``, row-major."""
        features = self.encoder(2.0 * masks[:, None] - 1.0)
        return features.flatten(2).transpose(1, 2)  # type: ignore[no-any-return]

    def encode(self, masks: Tensor) -> Tensor:
        """Map masks ``(b, 64, 64)`` in [0, 1] to codes ``(b, 16)``."""
        return self.quantizer.nearest(self.vectors(masks))

    def decode(self, vectors: Tensor) -> Tensor:
        """Map codebook vectors ``(b, 16, 512)`` to logits ``(b, 64, 64)``; the mask is ``> 0``."""
        grid = vectors.transpose(1, 2).reshape(len(vectors), CODE_WIDTH, GRID_SIDE, GRID_SIDE)
        return self.decoder(grid)[:, 0]  # type: ignore[no-any-return]


def _stages(
    layer: type[nn.Conv2d] | type[nn.ConvTranspose2d], widths: tuple[int, ...]
) -> list[nn.Module]:
    """Four times 4x4, stride 2, ReLU: each halves (or doubles) the side."""
    stages: list[nn.Module] = []
    for width_in, width_out in zip(widths[:-1], widths[1:], strict=True):
        stages += [layer(width_in, width_out, 4, stride=2, padding=1), nn.ReLU()]
    return stages
