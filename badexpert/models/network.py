"""One module from pixels to log-space scores: normalise, the user's network, pick, take logs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from badexpert.models.outputs import OutputKind, pick_logits, to_log_space
from badexpert.preprocessing import Preprocessing


class VisionNetwork(nn.Module):
    """Maps pixels to scores whose softmax is the classifier's distribution.

    The forward pass takes no decision that depends on data, so that ``torch.export`` can trace it;
    the wrapped network stays reachable, unchanged, as ``module``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: nn.Module,
        preprocessing: Preprocessing,
        num_classes: int,
        outputs: OutputKind,
    ) -> None:
        super().__init__()
        self.module = module
        self.num_classes = num_classes
        self.outputs = outputs
        self.reverse_channels = preprocessing.channel_order == "bgr"
        device, dtype = place_of(module)
        for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
            constant = torch.tensor(values, device=device, dtype=dtype).view(1, -1, 1, 1)
            self.register_buffer(name, constant, persistent=False)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Scores of pixels.

        Args:
            pixels: (batch, channels, height, width) floating, RGB, in [0, 1].
        Returns:
            (batch, classes) fp32, in log space.
        """
        pixels = pixels.to(self.mean.dtype)
        if self.reverse_channels:
            pixels = pixels.flip(1)
        output = self.module((pixels - self.mean) / self.std)
        return to_log_space(pick_logits(output, self.num_classes), self.outputs)


def place_of(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and floating type of a module's tensors; CPU and float32 for one without any."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32
