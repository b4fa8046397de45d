"""The codec's network: 64x64 masks to a 4x4 grid of codes, and back, around a codebook."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

NUM_CODES = 128
CODE_WIDTH = 512
MASK_SIDE = 64
GRID_SIDE = 4
NUM_TOKENS = GRID_SIDE * GRID_SIDE
SHARPNESS: Final = 4.0
"""Decoded masks are about -1 to 1; a loss that reads them as logits multiplies by this first."""


class Quantizer(nn.Module):
    """Replace each vector by the nearest row of a codebook, and let the codebook follow.

    The buffers carry the names and shapes of Google's table: ``_embedding`` (128, 512) is the
    codebook, ``_ema_cluster_size`` (128) and ``_ema_w`` (128, 512) are the running count and
    running sum of the vectors that chose each row.

    Args:
        decay: Share of the running averages that one training step keeps.

    Source:
        van den Oord et al. 2017 (arXiv 1711.00937), appendix A.1: the update by moving averages.

    Example:
        >>> quantizer = Quantizer()
        >>> codes = quantizer.nearest(torch.zeros(2, 4, 4, 512))
        >>> tuple(codes.shape), int(codes.max()) < 128
        ((2, 4, 4), True)
    """

    _embedding: Tensor
    _ema_cluster_size: Tensor
    _ema_w: Tensor

    def __init__(self, *, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        table = torch.randn(NUM_CODES, CODE_WIDTH)
        self.register_buffer("_embedding", table)
        self.register_buffer("_ema_cluster_size", torch.ones(NUM_CODES))
        self.register_buffer("_ema_w", table.clone())

    def nearest(self, vectors: Tensor) -> Tensor:
        """Return the code of the nearest codebook row, by squared distance.

        Args:
            vectors: ``(..., 512)`` encoder outputs.

        Returns:
            ``(...)`` int64 codes in [0, 127]; of equally near rows, the first.
        """
        flat = vectors.reshape(-1, CODE_WIDTH)
        table = self._embedding
        # |v|^2 is the same for every row of the table, so it cannot change which is nearest.
        distances = table.square().sum(1) - 2.0 * flat @ table.T
        return distances.argmin(1).reshape(vectors.shape[:-1])

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the codebook rows ``(..., 512)`` of ``codes`` ``(...)``."""
        return functional.embedding(codes, self._embedding)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise with a straight-through gradient; in training mode, move the codebook too.

        Args:
            vectors: ``(..., 512)`` encoder outputs.

        Returns:
            The chosen rows ``(..., 512)``, with a straight-through gradient to ``vectors``; the
            codes ``(...)``; the mean squared distance to the chosen rows (the commitment loss).
        """
        # The gradient passes the choice unchanged (straight-through).
        codes = self.nearest(vectors.detach())
        chosen = self.lookup(codes)
        commitment = functional.mse_loss(vectors, chosen)
        if self.training:
            self._update(vectors.detach(), codes)
        return vectors + (chosen - vectors).detach(), codes, commitment

    @torch.no_grad()
    def start_from(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Fill the codebook with randomly drawn ``vectors`` ``(n, 512)``."""
        self._place(torch.arange(NUM_CODES), vectors, generator)

    @torch.no_grad()
    def revive(self, vectors: Tensor, generator: torch.Generator, *, minimum: float) -> int:
        """Move rows that hardly anything chose onto randomly drawn ``vectors``.

        Args:
            vectors: ``(n, 512)`` recent encoder outputs.
            generator: Random generator, so that a seeded run is reproducible.
            minimum: Rows with a running count per step below this are moved.

        Returns:
            How many rows were moved.
        """
        dead = torch.nonzero(self._ema_cluster_size < minimum).flatten()
        self._place(dead, vectors, generator)
        return len(dead)

    def _place(self, rows: Tensor, vectors: Tensor, generator: torch.Generator) -> None:
        drawn = vectors[torch.randint(len(vectors), (len(rows),), generator=generator)]
        # A fair share of the batch, so that a moved row is not counted dead again at once.
        share = len(vectors) / NUM_CODES
        self._embedding[rows] = drawn
        self._ema_cluster_size[rows] = share
        self._ema_w[rows] = drawn * share

    @torch.no_grad()
    def _update(self, vectors: Tensor, codes: Tensor) -> None:
        flat = vectors.reshape(-1, CODE_WIDTH)
        chosen = functional.one_hot(codes.flatten(), NUM_CODES).to(flat.dtype)
        self._ema_cluster_size.lerp_(chosen.sum(0), 1.0 - self.decay)
        self._ema_w.lerp_(chosen.T @ flat, 1.0 - self.decay)
        # An unchosen row's sum and count fade together; the floor keeps the quotient finite.
        self._embedding.copy_(self._ema_w / self._ema_cluster_size.clamp_min(1e-5)[:, None])


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
