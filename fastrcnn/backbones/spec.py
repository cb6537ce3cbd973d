"""What depends on a backbone's name. Imports no torch: `fastrcnn.config` reads the numbers here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from torch import Tensor, nn

    NormLayer = Callable[..., nn.Module]
    StateDict = Mapping[str, Tensor]

Preset = Literal["paper", "modern"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneSpec:
    """A network cut off at its last convolutional map, its weights, and the numbers that suit it."""

    name: str
    """What `--backbone` and `FastRCNNConfig.backbone` call it."""
    body: Callable[[NormLayer], nn.Module]
    """Builds the network with random weights from a norm layer: `FrozenNorm` or `nn.BatchNorm2d`. A network
    without batch norms ignores the norm layer. Its children have the names of the published weights, so that
    these load by key. Called with images (N, 3, H, W), the network returns one map (N, C, H / stride,
    W / stride), or a dict of maps, finest first. It imports torch inside the function."""
    strides: tuple[int, ...]
    """Pixels of the model frame for each cell, map by map, finest first. Each divides 32
    (`fastrcnn.transform.PAD_MULTIPLE`)."""
    channels: tuple[int, ...]
    """Channels of each map of the network, finest first."""
    fpn_channels: int | None = None
    """Channels of a feature pyramid network on top of the maps (Lin et al. 2017). None: no such network."""
    stages: tuple[str, ...]
    """The first child of each stage, in order. `frozen_stages` counts stages."""
    channels_last: bool = False
    """Memory format on a CPU. For a training step on 2 cores, channels last with `FrozenNorm` takes a quarter
    to a half of the time for mobilenet_v2 and resnet50, the same time for tiny, and two to three times as
    long for squeezenet. A GPU always has channels last."""

    imagenet: Callable[[], StateDict] | None = None
    """Downloads the weights that `--weights imagenet` stands for; see `torchvision_weights`."""
    without_imagenet: str = "train it with weights 'none'"
    """What to do where `imagenet` is None; the end of an error."""
    weights_prefix: str = ""
    """How the keys of the network begin in the published state_dict, e.g. ``features.``."""
    fc: tuple[str, str] | None = None
    """The two layers of the published classifier that become fc6 and fc7."""
    caffe_layers: Mapping[str, str] = field(default_factory=dict)
    """Caffe's name of a layer -> its name in the published state_dict, where `fastrcnn.backbones.caffe` reads
    a .caffemodel. The layer that sees the image comes first."""

    numbers: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `FastRCNNConfig` whose value in both presets differs from that of other backbones."""
    paper: Mapping[str, Any] = field(default_factory=dict)
    """Fields that differ in the preset `paper` alone."""
    modern: Mapping[str, Any] = field(default_factory=dict)
    """Fields that differ in the preset `modern` alone."""

    def __post_init__(self) -> None:
        if not self.strides or len(self.strides) != len(self.channels):
            raise ValueError(
                f"backbone {self.name}: {len(self.strides)} strides and {len(self.channels)} channels;"
                " expected one of each for each map"
            )
        if self.fpn_channels is None and len(set(self.channels)) > 1:
            raise ValueError(
                f"backbone {self.name}: maps of {self.channels} channels; expected the same number for"
                " each map, or fpn_channels"
            )

    @property
    def out_channels(self) -> int:
        """Channels C of each map that the heads see."""
        return self.fpn_channels or self.channels[0]

    def preset_numbers(self, preset: Preset, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of `FastRCNNConfig` that this backbone sets in a preset.

        Args:
            changes: fields that the caller sets. A width of fc6 is also that of fc7, unless both are given.
        """
        numbers = {**self.numbers, **(self.paper if preset == "paper" else self.modern)}
        if "fc_dim" in changes:
            numbers.pop("fc7_dim", None)
        return numbers

    def imagenet_weights(self) -> StateDict:
        """Download the ImageNet state_dict once, into torch's hub folder.

        Raises:
            ValueError: none is published for this backbone.
            OSError: the download failed.
        """
        if self.imagenet is None:
            raise ValueError(
                f"backbone {self.name} has no ImageNet weights to download; {self.without_imagenet}"
            )
        return self.imagenet()

    def body_weights(self, state_dict: StateDict) -> dict[str, Tensor]:
        """Take the part of a published state_dict that the network holds, under the network's keys."""
        prefix = self.weights_prefix
        return {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}

    def fc_weights(self, state_dict: StateDict) -> dict[str, Tensor]:
        """Take the classifier's two hidden layers, where the state_dict has them, as `fc6.*` and `fc7.*`."""
        return {
            f"{fc}.{part}": state_dict[f"{layer}.{part}"]
            for fc, layer in zip(("fc6", "fc7"), self.fc or (), strict=False)
            for part in ("weight", "bias")
            if f"{layer}.{part}" in state_dict
        }


def torchvision_weights(classifier: str) -> Callable[[], StateDict]:
    """Make a function that downloads the first ImageNet weights of one of torchvision's classifiers."""

    def download() -> StateDict:
        import torchvision

        weights = torchvision.models.get_model_weights(classifier)["IMAGENET1K_V1"]
        # torch.hub's default would run any code that a pickle holds.
        state_dict = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        return cast("StateDict", state_dict)

    return download
