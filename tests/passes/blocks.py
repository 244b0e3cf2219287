"""Small blocks of every kind, for tests that build networks of them."""

import torch
import torch.nn.functional as F
from torch import nn


class Basic(nn.Module):
    """A basic residual block, its activation a function."""

    def __init__(self, c, groups=1):
        super().__init__()
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(c)

    def forward(self, x):
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Bottleneck(nn.Module):
    """A bottleneck that is `expansion` times narrower or wider inside, grouped."""

    def __init__(self, c, groups=1, expansion=0.5):
        super().__init__()
        width = max(groups, int(c * expansion) // groups * groups)
        self.body = nn.Sequential(
            nn.Conv2d(c, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, groups=groups), nn.GroupNorm(1, width), nn.SiLU(),
            nn.Conv2d(width, c, 1),
        )  # fmt: skip

    def forward(self, x):
        return x + self.body(x)


class PreActivation(nn.Module):
    """Norm and activation first."""

    def __init__(self, c, groups=1):
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(c), nn.PReLU(c)
        self.conv = nn.Conv2d(c, c, 3, padding=1)
        self.conv2 = nn.Conv2d(c, c, 1)

    def forward(self, x):
        return x + self.conv2(F.gelu(self.conv(self.act(self.norm(x)))))


class InvertedResidual(nn.Module):
    """Expansion, depth-wise convolution, squeeze-and-excitation, projection."""

    def __init__(self, c, groups=1):
        super().__init__()
        wide = 3 * c
        self.expand, self.bn = nn.Conv2d(c, wide, 1), nn.BatchNorm2d(wide)
        self.depthwise = nn.Conv2d(wide, wide, 5, padding=2, groups=wide)
        self.reduce, self.excite = nn.Linear(wide, max(1, wide // 4)), nn.Linear(wide // 4, wide)
        self.project = nn.Conv2d(wide, c, 1)

    def forward(self, x):
        y = F.hardswish(self.depthwise(F.relu6(self.bn(self.expand(x)))))
        gate = torch.sigmoid(self.excite(F.relu(self.reduce(y.mean((2, 3))))))
        return x + self.project(y * gate[:, :, None, None])


class ConvNext(nn.Module):
    """LayerNorm and Linear on permuted maps, with a layer scale."""

    def __init__(self, c, groups=1):
        super().__init__()
        self.depthwise = nn.Conv2d(c, c, 7, padding=3, groups=c)
        self.norm = nn.LayerNorm(c)
        self.fc1, self.fc2 = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        self.gamma = nn.Parameter(0.1 * torch.ones(c))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.fc2(F.gelu(self.fc1(y)))
        return x + y.permute(0, 3, 1, 2)


class Branches(nn.Module):
    """Parallel convolutions and an identity branch with a norm, added (RepVGG-like)."""

    def __init__(self, c, groups=1):
        super().__init__()
        self.conv3, self.conv1 = nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, c, 1)
        self.identity = nn.BatchNorm2d(c)

    def forward(self, x):
        return F.relu(self.conv3(x) + self.conv1(x) + self.identity(x))


class Shuffle(nn.Module):
    """Halves of the channels, one of them convolved, concatenated and shuffled."""

    def __init__(self, c, groups=1):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(c // 2, c // 2, 1), nn.BatchNorm2d(c // 2), nn.ReLU(),
            nn.Conv2d(c // 2, c // 2, 3, padding=1, groups=c // 2),
        )  # fmt: skip

    def forward(self, x):
        left, right = x.chunk(2, dim=1)
        out = torch.cat([left, self.branch(right)], dim=1)
        n, c, h, w = out.shape
        return out.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class PartialSplit(nn.Module):
    """A split whose widths are written into the code (CSP-like)."""

    def __init__(self, c, groups=1):
        super().__init__()
        self.half = c // 2
        self.conv1 = nn.Conv2d(c, c, 1)
        self.conv2 = nn.Conv2d(c - self.half, c - self.half, 3, padding=1)
        self.fuse = nn.Conv2d(c, c, 1)

    def forward(self, x):
        y = F.silu(self.conv1(x))
        kept, worked = y[:, : self.half], y[:, self.half :]
        return self.fuse(torch.cat([kept, F.silu(self.conv2(worked))], 1))


class Inception(nn.Module):
    """Branches of different kernels, concatenated."""

    def __init__(self, c, groups=1):
        super().__init__()
        quarter = c // 4
        self.one = nn.Conv2d(c, quarter, 1)
        self.three = nn.Sequential(nn.Conv2d(c, quarter, 1), nn.Conv2d(quarter, quarter, 3, 1, 1))
        self.pool = nn.Conv2d(c, c - 2 * quarter, 1)

    def forward(self, x):
        pooled = self.pool(F.avg_pool2d(x, 3, 1, 1))
        return F.relu(torch.cat([self.one(x), self.three(x), pooled], 1))


KINDS = {
    kind.__name__: kind
    for kind in (
        Basic, Bottleneck, PreActivation, InvertedResidual, ConvNext, Branches, Shuffle,
        PartialSplit, Inception,
    )
}  # fmt: skip


class Net(nn.Module):
    """A stem, one stage of blocks, a head."""

    def __init__(self, kind, channels, blocks, groups=1, in_channels=3):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.stage = nn.Sequential(*(kind(channels, groups) for _ in range(blocks)))
        self.head = nn.Linear(channels, 5)

    def forward(self, x):
        return self.head(self.stage(F.relu(self.stem(x))).mean((2, 3)))
