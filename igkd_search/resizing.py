"""Images brought to a smaller size by a network itself, as its first operation.

Whoever feeds it, be it a training or a deployed ONNX file, gives images of the data's own size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


def reduced(height: int, width: int, side: int) -> tuple[int, int]:
    """The height and width of images whose larger side became `side`, in proportion."""
    larger = max(height, width)
    return max(1, round(height * side / larger)), max(1, round(width * side / larger))


class Resize(nn.Module):
    """Images (B, C, H, W) of one size to another, bilinear with antialiasing.

    The filter is that of Pillow and of torch's interpolate(antialias=True), which is linear in each
    direction: one matrix for rows and one for columns are the same but for rounding. Two matrix
    products have gradients, compile, can be quantised, and are two nodes of an ONNX file whose
    answers are PyTorch's to the last bits. Interpolation as such becomes an ONNX Resize whose
    antialiasing is ONNX Runtime's own and slower; pooling to a size that does not divide becomes
    dozens of nodes.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, size: tuple[int, int], new_size: tuple[int, int]) -> None:
        super().__init__()
        # no part of a state dict: they follow from the sizes
        self.register_buffer("rows", _filter(size[0], new_size[0]), persistent=False)
        self.register_buffer("columns", _filter(size[1], new_size[1]).T, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.rows @ images @ self.columns


def _filter(length: int, new_length: int) -> Tensor:
    """The weights (new_length, length) of one direction; each row sums to 1."""
    each = torch.eye(length)[None, None]
    size = (new_length, length)
    return functional.interpolate(each, size, mode="bilinear", antialias=True)[0, 0]
