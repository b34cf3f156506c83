"""Views: the crops and flips of an image, its map and its logits together; and the overlay.

Padding by `shift` and cropping back makes (2 shift + 1)^2 crops, with a flip twice as many, so
every view an image can ever show has an index. Bank rows are addressed by it, which is what makes
stored soft targets exact. Pure functions, batched, on any device. The order is the law of the
house: crop and flip with zero padding, overlay in [0, 1] pixel space, then normalisation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_PIECE = 4096  # images packed at once


@dataclass(frozen=True)
class Views:
    """All views of an image: crops of up to `shift` pixels in each direction, flipped or not.

    View index = ((dy * side) + dx) * flips + flipped, with side = 2 shift + 1 and dy, dx in [0,
    side): offsets into the padded image, so that `shift` is the image in its place.
    """

    shift: int
    flip: bool

    @property
    def side(self) -> int:
        return 2 * self.shift + 1

    @property
    def count(self) -> int:
        """How many views there are: 9 for a shift of 1, 162 for a shift of 4 and flips."""
        return self.side**2 * (1 + self.flip)

    @property
    def identity(self) -> int:
        """The index of the view that shows the image as it is."""
        return self.index(self.shift, self.shift, False)

    def index(self, dy: int, dx: int, flipped: bool) -> int:
        """The view index of one crop offset and flip."""
        assert 0 <= dy < self.side and 0 <= dx < self.side and (self.flip or not flipped)
        return (dy * self.side + dx) * (1 + self.flip) + int(flipped)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` view indexes (count,), each view equally likely, on the generator's device."""
        return torch.randint(self.count, (count,), generator=generator, device=generator.device)


@dataclass(frozen=True)
class Reader:
    """Images, with or without maps, resident on one device, and how to read views of them.

    packed uint8 (N, H + 2 shift, W + 2 shift, C to C + 2) from `pack`; mean and sd (C,) in [0, 1].
    """

    packed: Tensor
    kinds: Views
    mean: Tensor
    sd: Tensor

    @classmethod
    def of(
        cls, images: Tensor, maps: Tensor | None, kinds: Views, mean: Tensor, sd: Tensor
    ) -> "Reader":
        """Pack images uint8 (N, C, H, W) and maps (N, H, W), uint8 or fp16, beside `mean`."""
        packed = pack(images, maps, kinds.shift).to(mean.device)
        return cls(packed, kinds, mean, sd)

    def unit(self, rows: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        """Images float (B, C, H, W) and maps (B, H, W), both in [0, 1]; no maps packed: zeros."""
        pixels = to_unit(look_up(self.packed, rows, views, self.kinds))
        channels = len(self.mean)
        images, extra = pixels[:, :channels], pixels[:, channels:]
        if not extra.shape[1]:
            return images, torch.zeros_like(pixels[:, 0])
        if extra.shape[1] == 1:
            return images, extra[:, 0]
        return images, (extra[:, 0] * 256 + extra[:, 1]) / 257

    def normalised(self, rows: Tensor, views: Tensor) -> Tensor:
        """Images (B, C, H, W) as a network sees them, without overlay."""
        return normalise(self.unit(rows, views)[0], self.mean, self.sd)

    def unaugmented(self, rows: Tensor) -> Tensor:
        """Images (B, C, H, W) as they are: validation and test images are never augmented."""
        return self.normalised(rows, torch.full_like(rows, self.kinds.identity))


def pack(images: Tensor, maps: Tensor | None, shift: int) -> Tensor:
    """Images uint8 (N, C, H, W) and maps (N, H, W) as one zero-padded uint8 (N, H', W', channels).

    One array means one look-up: image and map cannot come apart. H' = H + 2 shift. A map uint8 is
    one channel more, a map fp16 in [0, 1] two: the high and the low byte of 65535 steps.
    """
    count, channels, height, width = images.shape
    extra = 0 if maps is None else _channels(maps[:1]).shape[1]
    shape = (count, height + 2 * shift, width + 2 * shift, channels + extra)
    packed = torch.zeros(shape, dtype=torch.uint8, device=images.device)
    inside = packed[:, shift : shift + height, shift : shift + width]
    # piece by piece: images may be mapped from a file larger than what can be held twice
    for start in range(0, count, _PIECE):
        piece = slice(start, start + _PIECE)
        inside[piece, ..., :channels] = images[piece].permute(0, 2, 3, 1)
        if maps is not None:
            inside[piece, ..., channels:] = _channels(maps[piece]).permute(0, 2, 3, 1)
    return packed


def _channels(maps: Tensor) -> Tensor:
    if maps.dtype == torch.uint8:
        return maps[:, None]
    steps = (maps.float() * 65535).round().to(torch.int32)
    return torch.stack([steps // 256, steps % 256], dim=1).to(torch.uint8)


def look_up(packed: Tensor, rows: Tensor, views: Tensor, kinds: Views) -> Tensor:
    """The chosen views of the chosen rows: uint8 (B, H, W, C), channels last in memory.

    `rows` and `views` are (B,) integers on the device of `packed`, made by `pack` with kinds.shift.
    """
    height, width = (size - 2 * kinds.shift for size in packed.shape[1:3])
    crops = views // 2 if kinds.flip else views
    dy, dx = crops // kinds.side, crops % kinds.side
    column = torch.arange(width, device=packed.device).expand(len(rows), width)
    if kinds.flip:
        column = torch.where((views % 2 == 1)[:, None], width - 1 - column, column)
    line = dy[:, None] + torch.arange(height, device=packed.device)
    return packed[rows[:, None, None], line[:, :, None], (dx[:, None] + column)[:, None, :]]


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 (B, H, W, C) as float32 (B, C, H, W) in [0, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float().div_(255)


def overlay(
    images: Tensor,
    maps: Tensor,
    generator: torch.Generator,
    *,
    probability: float | Tensor,
    strength: float | Tensor = 0.5,
    exponent_max: float | Tensor = 2.0,
) -> Tensor:
    """Lay each map over its image with the given probability, drawn per sample.

    Images (B, C, H, W) and maps (B, H, W) in [0, 1]. A drawn sample becomes
    (1 - strength) * image + strength * map^s on every channel, s log-uniform in [1, exponent_max].
    The maps are already min-max scaled, so the exponent acts on [0, 1] (arXiv 2503.13008, section
    3). The same number of random values is drawn whatever the probability.
    """
    draws = torch.rand(2, len(images), generator=generator, device=images.device)
    exponent = torch.as_tensor(exponent_max, device=images.device).pow(draws[1])
    share = ((draws[0] < probability) * strength)[:, None, None, None]
    saliency = maps.pow(exponent[:, None, None])[:, None]
    return torch.lerp(images, saliency.expand_as(images), share.expand_as(images))


def normalise(images: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """(images - mean) / sd; images (B, C, H, W) in [0, 1], the fit rows' statistics (C,)."""
    return (images - mean[:, None, None]) / sd[:, None, None]
