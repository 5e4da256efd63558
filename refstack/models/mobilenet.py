"""MobileNet-v1 for 32x32 images.

Source      Howard et al.: MobileNets, arXiv 1704.04861; CIFAR-10 form with a stride-1 stem.
            3,217,226 parameters, 46,354,432 multiply-adds
"""

from refstack.graph import Graph
from refstack.models.builder import Builder

BLOCKS = (  # width, stride of the depthwise convolution
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


def mobilenet(classes: int = 10) -> Graph:
    """Stem, thirteen blocks of depthwise 3x3 and pointwise 1x1, global average, linear."""
    net = Builder("mobilenet", (3, 32, 32)).conv("conv1", 32, 3, padding=1).batchnorm().relu()
    for block, (width, stride) in enumerate(BLOCKS, 1):
        net.conv(f"dw{block}", net.channels, 3, stride=stride, padding=1, groups=net.channels).batchnorm().relu()
        net.conv(f"pw{block}", width, 1).batchnorm().relu()
    return net.globalavgpool().flatten().linear("fc", classes).graph()
