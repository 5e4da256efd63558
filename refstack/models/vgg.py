"""VGG-16 for 32x32 images.

Source      Simonyan, Zisserman: Very Deep Convolutional Networks, ICLR 2015; CIFAR-10 form with batch-norm and two
            linear layers, as in Turner et al. 2018.   14,986,698 parameters (14,982,474 with batch-norm folded),
            313,463,808 multiply-adds
"""

from refstack.graph import Graph
from refstack.models.builder import Builder

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(classes: int = 10) -> Graph:
    """Five stages of 3x3 convolutions, each closed by a 2x2 max-pool; linear 512, linear classes."""
    net = Builder("vgg16", (3, 32, 32))
    for stage, widths in enumerate(STAGES, 1):
        for i, width in enumerate(widths, 1):
            net.conv(f"conv{stage}_{i}", width, 3, padding=1).batchnorm().relu()
        net.maxpool(f"pool{stage}", 2)
    return net.flatten().linear("fc1", 512).relu().linear("fc2", classes).graph()
