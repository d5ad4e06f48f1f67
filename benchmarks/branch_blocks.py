"""Small networks of published blocks with parallel branches that timm does not have, spelled as their authors spell them:
DBB (arXiv 2103.13425), ACNet (1908.03930), RepLKNet (2203.06717), UniRepLKNet (2311.15599). For export_branches.py."""

import torch
import torch.nn.functional as F
from torch import nn


def conv_norm(ins, outs, kernel, stride=1, padding=0, dilation=1, groups=1):
    return nn.Sequential(nn.Conv2d(ins, outs, kernel, stride, padding, dilation, groups, bias=False), nn.BatchNorm2d(outs))


class PlusIdentity(nn.Conv2d):
    """A 1x1 convolution whose weight is counted from the identity."""

    def __init__(self, channels, groups):
        super().__init__(channels, channels, 1, groups=groups, bias=False)
        size = channels // groups
        self.register_buffer("identity", torch.eye(size).repeat(groups, 1)[:, :, None, None])

    def forward(self, x):
        return F.conv2d(x, self.weight + self.identity, groups=self.groups)


class NormAndPad(nn.Module):
    """BatchNorm whose border holds what it gives for zeros, so that the convolution after it can be merged."""

    def __init__(self, pad, channels):
        super().__init__()
        self.bn, self.pad = nn.BatchNorm2d(channels), pad

    def forward(self, x):
        y, pad, bn = F.pad(self.bn(x), [self.pad] * 4), self.pad, self.bn
        value = (bn.bias.detach() - bn.running_mean * bn.weight.detach() / torch.sqrt(bn.running_var + bn.eps)).view(1, -1, 1, 1)
        y[:, :, :pad, :] = value
        y[:, :, -pad:, :] = value
        y[:, :, :, :pad] = value
        y[:, :, :, -pad:] = value
        return y


class DiverseBranches(nn.Module):
    def __init__(self, ins, outs, kernel=3, stride=1, groups=1):
        super().__init__()
        pad = kernel // 2
        self.branches = nn.ModuleList([conv_norm(ins, outs, kernel, stride, pad, 1, groups)])
        depthwise = groups == outs
        if depthwise:
            self.branches.append(nn.Sequential(nn.AvgPool2d(kernel, stride, pad), nn.BatchNorm2d(outs)))
        else:
            self.branches.append(conv_norm(ins, outs, 1, stride, 0, 1, groups))
            self.branches.append(nn.Sequential(
                nn.Conv2d(ins, outs, 1, groups=groups, bias=False), NormAndPad(pad, outs),
                nn.AvgPool2d(kernel, stride, 0), nn.BatchNorm2d(outs)))
        inner = 2 * ins if depthwise else ins
        first = nn.Conv2d(ins, inner, 1, groups=groups, bias=False) if depthwise else PlusIdentity(ins, groups)
        self.branches.append(nn.Sequential(
            first, NormAndPad(pad, inner), nn.Conv2d(inner, outs, kernel, stride, 0, groups=groups, bias=False),
            nn.BatchNorm2d(outs)))

    def forward(self, x):
        return F.relu(sum(branch(x) for branch in self.branches))


class Asymmetric(nn.Module):
    def __init__(self, ins, outs, kernel=3, stride=1, groups=1):
        super().__init__()
        pad = kernel // 2
        self.square = conv_norm(ins, outs, kernel, stride, pad, 1, groups)
        self.column = conv_norm(ins, outs, (kernel, 1), stride, (pad, 0), 1, groups)
        self.row = conv_norm(ins, outs, (1, kernel), stride, (0, pad), 1, groups)

    def forward(self, x):
        return F.relu(self.square(x) + self.column(x) + self.row(x))


class LargeKernel(nn.Module):
    def __init__(self, width, large, small):
        super().__init__()
        self.norm, self.before, self.after = nn.BatchNorm2d(width), conv_norm(width, width, 1), conv_norm(width, width, 1)
        self.large = conv_norm(width, width, large, 1, large // 2, 1, width)
        self.small = conv_norm(width, width, small, 1, small // 2, 1, width)
        self.ffn = nn.Sequential(nn.BatchNorm2d(width), conv_norm(width, 4 * width, 1), nn.GELU(), conv_norm(4 * width, width, 1))

    def forward(self, x):
        y = F.relu(self.before(self.norm(x)))
        x = x + self.after(F.relu(self.large(y) + self.small(y)))
        return x + self.ffn(x)


class Dilated(nn.Module):
    def __init__(self, width, kernel, smaller):
        super().__init__()
        self.large = conv_norm(width, width, kernel, 1, kernel // 2, 1, width)
        self.smaller = nn.ModuleList(
            conv_norm(width, width, size, 1, dilation * (size - 1) // 2, dilation, width) for size, dilation in smaller)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return F.relu(self.norm(sum((branch(x) for branch in self.smaller), self.large(x))))


def head(width):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]


def stem(width):
    return [conv_norm(3, width, 3, 2, 1), nn.ReLU()]


NETWORKS = {
    "dbb": lambda: nn.Sequential(
        DiverseBranches(3, 32, 3, 2), DiverseBranches(32, 32), DiverseBranches(32, 32, 3, 1, 32),
        DiverseBranches(32, 48, 5, 2, 2), DiverseBranches(48, 48, 3, 1, 4), *head(48)),
    "acnet": lambda: nn.Sequential(
        Asymmetric(3, 32, 3, 2), Asymmetric(32, 32), Asymmetric(32, 48, 5, 2, 4), Asymmetric(48, 48, 3, 1, 48), *head(48)),
    "replknet": lambda: nn.Sequential(*stem(32), LargeKernel(32, 31, 5), LargeKernel(32, 13, 5), nn.BatchNorm2d(32), *head(32)),
    "unireplknet": lambda: nn.Sequential(
        *stem(32), Dilated(32, 13, [(5, 1), (7, 2), (3, 3), (3, 4), (3, 5)]), Dilated(32, 9, [(5, 1), (5, 2), (3, 3), (3, 4)]), *head(32)),
}
