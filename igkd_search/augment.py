"""Views: the crops and flips of an image, its map and its logits together; and the overlay.

Padding by `shift` and cropping back makes (2 shift + 1)^2 crops, with a flip twice as many, so
every view an image can ever show has an index. Bank rows are addressed by it, which is what makes
stored soft targets exact. Pure functions, batched, on any device. The order is the law of the
house: crop and flip with zero padding, overlay in [0, 1] pixel space, then normalisation.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Pixels = NDArray[np.uint8]
Maps = NDArray[np.uint8] | NDArray[np.float16]
"""One map an image (N, H, W): uint8 in [0, 255] or fp16 in [0, 1]."""

_PIECE = 2**26  # bytes packed at once


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

    def draw(self, count: int, generator: torch.Generator, flipped: Tensor | None = None) -> Tensor:
        """`count` view indexes (count,), each view equally likely, on the generator's device.

        `flipped` (count,), where given, says which are mirrored; only crops are drawn then.
        """
        crops = self.side**2
        choices = self.count if flipped is None else crops
        drawn = torch.randint(choices, (count,), generator=generator, device=generator.device)
        return drawn if flipped is None else drawn * (1 + self.flip) + flipped


@dataclass(frozen=True)
class Reader:
    """Images, with or without maps, and how to read views of them on one device.

    They are resident there as `packed` uint8 (N, H + 2 shift, W + 2 shift, C to C + 2), see `pack`;
    or, where they do not fit, `packed` is None and the rows asked for are sent from `images` uint8
    (N, C, H, W) and `maps` (N, H, W) on the host, with the same results. mean and sd (C,) are those
    of the fit rows in [0, 1], on the device.
    """

    packed: Tensor | None
    kinds: Views
    mean: Tensor
    sd: Tensor
    images: Pixels | None = None
    maps: Maps | None = None

    @classmethod
    def of(cls, images: Pixels, maps: Maps | None, kinds: Views, mean: Tensor, sd: Tensor) -> Self:
        """A reader of images uint8 (N, C, H, W) and maps (N, H, W), resident beside `mean`."""
        packed = torch.empty(
            packed_shape(images, maps, kinds.shift), dtype=torch.uint8, device=mean.device
        )
        # piece by piece: images may be mapped from a file larger than what can be held twice
        step = max(1, _PIECE // packed[:1].nbytes)
        for start in range(0, len(images), step):
            rows = slice(start, start + step)
            piece = torch.tensor(images[rows])
            saliency = None if maps is None else torch.tensor(maps[rows])
            packed[rows] = pack(piece, saliency, kinds.shift)
        return cls(packed, kinds, mean, sd)

    @classmethod
    def streaming(
        cls, images: Pixels, maps: Maps | None, kinds: Views, mean: Tensor, sd: Tensor
    ) -> Self:
        """A reader of images and maps that stay on the host."""
        return cls(None, kinds, mean, sd, images, maps)

    @property
    def device(self) -> torch.device:
        """Where images are read."""
        return self.mean.device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        if self.packed is None:
            assert self.images is not None
            channels, height, width = self.images.shape[1:]
            return channels, height, width
        margin = 2 * self.kinds.shift
        return len(self.mean), self.packed.shape[1] - margin, self.packed.shape[2] - margin

    def fetch(self, rows: NDArray[np.int64]) -> Tensor:
        """The packed pixels (B, H', W', C') of these rows, sent from the host to the device."""
        assert self.images is not None
        images = send(self.images, rows, self.device)
        maps = None if self.maps is None else send(self.maps, rows, self.device)
        return pack(images, maps, self.kinds.shift)

    def unit(
        self, rows: Tensor, views: Tensor, fetched: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images float (B, C, H, W) and maps (B, H, W), both in [0, 1]; no maps: zeros.

        `fetched` is what `fetch` gave for these rows, if that was asked before.
        """
        if self.packed is None:
            found = self.fetch(rows.cpu().numpy()) if fetched is None else fetched
            pixels = look_up(found, torch.arange(len(rows), device=rows.device), views, self.kinds)
        else:
            pixels = look_up(self.packed, rows, views, self.kinds)
        return self._split(to_unit(pixels))

    def _split(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
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


def send(array: NDArray[Any], rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """Rows of an array on the host, such as one mapped from a file, as a tensor on a device.

    To a GPU through pinned memory, so that nobody waits for the copy.
    """
    shape = (len(rows), *array.shape[1:])
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    staged = torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
    if array.flags.c_contiguous:
        # "clip" lets numpy write to where it is told, without a copy between; rows are in bounds
        np.take(array, rows, axis=0, out=staged.numpy(), mode="clip")
    else:  # which numpy.take would copy whole
        staged.numpy()[...] = array[rows]
    return staged.to(device, non_blocking=True)


def packed_shape(images: Pixels, maps: Maps | None, shift: int) -> tuple[int, int, int, int]:
    """The shape of what `pack` makes of images (N, C, H, W) and maps (N, H, W)."""
    count, channels, height, width = images.shape
    extra = 0 if maps is None else maps.dtype.itemsize
    return count, height + 2 * shift, width + 2 * shift, channels + extra


def pack(images: Tensor, maps: Tensor | None, shift: int) -> Tensor:
    """Images uint8 (N, C, H, W) and maps (N, H, W) as one zero-padded uint8 (N, H', W', channels).

    One array means one look-up: image and map cannot come apart. H' = H + 2 shift. A map uint8 is
    one channel more, a map fp16 in [0, 1] two: the high and the low byte of 65535 steps.
    """
    parts = [images] if maps is None else [images, _channels(maps)]
    pixels = torch.cat(parts, dim=1).permute(0, 2, 3, 1)
    return functional.pad(pixels, (0, 0, shift, shift, shift, shift)).contiguous()


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
    chance: Tensor,
    *,
    probability: float | Tensor,
    strength: float | Tensor = 0.5,
    exponent_max: float | Tensor = 2.0,
) -> Tensor:
    """Lay each map over its image with the given probability, drawn per sample.

    Images (B, C, H, W) and maps (B, H, W) in [0, 1]; chance (2, B) uniform in [0, 1): whether, and
    how sharp. A drawn sample becomes (1 - strength) * image + strength * map^s on every channel, s
    log-uniform in [1, exponent_max]. The maps are already min-max scaled, so the exponent acts on
    [0, 1] (arXiv 2503.13008, section 3).
    """
    exponent = torch.pow(exponent_max, chance[1])  # a plain number is not sent to the device
    share = ((chance[0] < probability) * strength)[:, None, None, None]
    saliency = maps.pow(exponent[:, None, None])[:, None]
    return torch.lerp(images, saliency.expand_as(images), share.expand_as(images))


def cut_out(images: Tensor, chance: Tensor, side: int) -> Tensor:
    """Blank a square of `side` pixels in each image (B, C, H, W), at a place of its own.

    Images are normalised, so a blank shows the mean colour; chance (2, B) uniform in [0, 1) says
    where the middle lies, and squares may stick out (DeVries and Taylor, arXiv 1708.04552).
    """
    inside = []
    for size, place in zip(images.shape[2:], chance, strict=True):
        first = (place * size).floor() - side // 2
        pixel = torch.arange(size, device=images.device)
        inside.append((pixel >= first[:, None]) & (pixel < first[:, None] + side))
    lines, columns = inside
    return images.masked_fill((lines[:, :, None] & columns[:, None, :])[:, None], 0)


def normalise(images: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """(images - mean) / sd; images (B, C, H, W) in [0, 1], the fit rows' statistics (C,)."""
    return (images - mean[:, None, None]) / sd[:, None, None]
