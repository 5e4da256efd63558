"""ResNet-18 for 32x32 images.

Source      He, Zhang, Ren, Sun: Deep Residual Learning, CVPR 2016; CIFAR-10 form (3x3 stem, no max-pool).
            11,173,962 parameters, 555,422,720 multiply-adds
"""

from refstack.graph import Graph
from refstack.models.builder import Builder

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # width, stride of the first block; two blocks each


def resnet18(classes: int = 10) -> Graph:
    """Stem, four stages of two basic blocks, global average, linear."""
    net = Builder("resnet18", (3, 32, 32)).conv("conv1", 64, 3, padding=1).batchnorm().relu()
    for stage, (width, first_stride) in enumerate(STAGES, 1):
        for block, stride in enumerate((first_stride, 1), 1):
            _basic_block(net, f"layer{stage}_{block}", width, stride)
    return net.globalavgpool().flatten().linear("fc", classes).graph()


def _basic_block(net: Builder, name: str, width: int, stride: int) -> None:
    """x + conv(relu(conv(x))), then relu; a 1x1 projection on the shortcut where the shape changes."""
    x, channels = net.last, net.channels
    net.conv(f"{name}_conv1", width, 3, stride=stride, padding=1).batchnorm().relu()
    main = net.conv(f"{name}_conv2", width, 3, padding=1).batchnorm().last
    if stride != 1 or channels != width:
        x = net.at(x).conv(f"{name}_proj", width, 1, stride=stride).batchnorm().last
    net.add(f"{name}_add", main, x).relu()
