"""ResNet for CIFAR-10, option-A shortcuts (He et al. 2015, section 4.2), named as the released weights."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mmxai.models.images import ImagePipeline

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    def __init__(self, inner, outer, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.grows = stride != 1

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.grows:  # half the pixels, zeros for the new channels
            quarter = y.shape[1] // 4
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        return F.relu(y + x)


class ResNet(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [16, 16, 32, 64]
        for stage in (1, 2, 3):
            inner, outer = widths[stage - 1], widths[stage]
            first = Block(inner, outer, 1 if stage == 1 else 2)
            setattr(
                self,
                f"layer{stage}",
                nn.Sequential(first, *(Block(outer, outer, 1) for _ in range(blocks - 1))),
            )
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def load_resnet20(folder):
    from safetensors.torch import load_file

    net = ResNet(3)
    state = {
        k: v
        for k, v in load_file(folder / "resnet20.safetensors").items()
        if not k.endswith("batches_tracked")
    }
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(k.endswith("num_batches_tracked") for k in missing)
    return net.eval()


def normalise(image):
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return (pixels - mean[:, None, None]) / std[:, None, None]


def pipeline(side=32):
    """The same with the geometry kept: a picture resized to `side` x `side`."""
    return ImagePipeline.make(side, mean=MEAN, std=STD)
