"""Small networks for small images, as factories that ``--arch python:`` takes too."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Source: He et al., "Deep residual learning", arXiv:1512.03385.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Features in, features out, (batch, channels, height, width)."""
        inner = relu(self.bn1(self.conv1(features)))
        return relu(self.bn2(self.conv2(inner)) + self.shortcut(features))


def resnet20(num_classes: int = 10, in_chans: int = 3) -> nn.Module:
    """ResNet-20 for 32x32 images, 0.27 million parameters.

    Source: He et al., arXiv:1512.03385, section 4.2.
    Departs: convolutions in the shortcuts where the size changes, instead of zero padding.
    """
    widths, previous = (16, 32, 64), 16
    layers: list[nn.Module] = [
        nn.Conv2d(in_chans, previous, 3, 1, 1, bias=False),
        nn.BatchNorm2d(previous),
        nn.ReLU(),
    ]
    for stage, width in enumerate(widths):
        for block in range(3):
            layers.append(BasicBlock(previous, width, 2 if stage and not block else 1))
            previous = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(previous, num_classes)]
    return nn.Sequential(*layers)


def small_cnn(num_classes: int = 10, in_chans: int = 1) -> nn.Module:
    """Three convolutions with batch-norm for 8x8 images, 24 thousand parameters."""

    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *stage(in_chans, 16),
        *stage(16, 32),
        nn.MaxPool2d(2),
        *stage(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )
