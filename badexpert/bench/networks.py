"""Small networks for small images, as factories that ``--arch python:`` takes too."""

from __future__ import annotations

import timm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import relu

from moe_core.drop_in import DropIn
from moe_core.experts.swiglu import SwiGLUExperts
from moe_core.layer import MoELayer
from moe_core.routers.top_k import SoftmaxTopK


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
    return _resnet((16, 32, 64), 3, num_classes, in_chans)


def resnet18(num_classes: int = 10, in_chans: int = 3) -> nn.Module:
    """ResNet-18 as it is usual for 32x32 images, 11 million parameters.

    Source: He et al., arXiv:1512.03385, table 1.
    Departs: the first convolution is 3x3 and keeps the size, and no pooling follows it.
    """
    return _resnet((64, 128, 256, 512), 2, num_classes, in_chans)


def _resnet(widths: tuple[int, ...], blocks: int, num_classes: int, in_chans: int) -> nn.Module:
    """Stages of so many blocks each; every stage but the first halves the size."""
    previous = widths[0]
    layers: list[nn.Module] = [
        nn.Conv2d(in_chans, previous, 3, 1, 1, bias=False),
        nn.BatchNorm2d(previous),
        nn.ReLU(),
    ]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            layers.append(BasicBlock(previous, width, 2 if stage and not block else 1))
            previous = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(previous, num_classes)]
    return nn.Sequential(*layers)


def vgg16(num_classes: int = 10, in_chans: int = 3) -> nn.Module:
    """VGG-16 with batch-norm for 32x32 images, 15 million parameters.

    Source: Simonyan and Zisserman, arXiv:1409.1556, configuration D.
    Departs: batch-norm; one linear layer after the last pooling, which leaves a single pixel.
    """
    layers: list[nn.Module] = []
    previous = in_chans
    for width, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            layers += _convolution(previous, width)
            previous = width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(previous, num_classes)]
    return nn.Sequential(*layers)


def mobilenetv2(num_classes: int = 10, in_chans: int = 3) -> nn.Module:
    """MobileNetV2 that keeps the size in its first layer, 2.2 million parameters.

    At its usual stride of 32 nothing would be left of a 32x32 image.
    Source: Sandler et al., arXiv:1801.04381.
    """
    network: nn.Module = timm.create_model(
        "mobilenetv2_100", num_classes=num_classes, in_chans=in_chans
    )
    stem = network.get_submodule("conv_stem")
    assert isinstance(stem, nn.Conv2d)
    stem.stride = (1, 1)
    return network


def three_blocks(num_classes: int = 10, in_chans: int = 3, width: int = 32) -> nn.Module:
    """Three convolutions with batch-norm and pooling for 32x32 images, 95 thousand parameters."""
    layers: list[nn.Module] = []
    previous = in_chans
    for outputs in (width, 2 * width, 4 * width):
        layers += [*_convolution(previous, outputs), nn.MaxPool2d(2)]
        previous = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(previous, num_classes)]
    return nn.Sequential(*layers)


def cnn_without_norm(num_classes: int = 10, in_chans: int = 3) -> nn.Module:
    """Three convolutions and two linear layers for 32x32 images, without batch-norm."""
    return nn.Sequential(
        nn.Conv2d(in_chans, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(1024, 128),
        nn.ReLU(),
        nn.Linear(128, num_classes),
    )


def small_cnn(num_classes: int = 10, in_chans: int = 1) -> nn.Module:
    """Three convolutions with batch-norm for 8x8 images, 24 thousand parameters."""

    return nn.Sequential(
        *_convolution(in_chans, 16),
        *_convolution(16, 32),
        nn.MaxPool2d(2),
        *_convolution(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]


def vit_moe(
    num_classes: int = 10,
    in_chans: int = 3,
    img_size: int | tuple[int, int] = 32,
    patch_size: int = 4,
) -> nn.Module:
    """A vision transformer of two blocks, in which a router sends each patch to 2 of 8 experts.

    137 thousand parameters; ``patch_size=2`` suits images of 8x8.
    Source: Riquelme et al., V-MoE, arXiv:2106.05974.
    Departs: no loss balances the experts, since images are trained on their classes alone, and no
        expert has a capacity; every block has experts; patches are averaged, without a class token.
    """
    width, experts = 48, 8
    network = VisionTransformer(
        img_size,
        patch_size,
        in_chans,
        num_classes,
        global_pool="avg",
        class_token=False,
        embed_dim=width,
        depth=2,
        num_heads=4,
    )
    for block in network.blocks:
        block.mlp = DropIn(
            MoELayer(SoftmaxTopK(width, experts, 2), SwiGLUExperts(width, width, experts))
        )
    return network
