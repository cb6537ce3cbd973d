"""Everything that depends on a backbone's name. It imports no torch, because `fastrcnn.config` reads it."""

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
class PublishedDetector:
    """A detector of torchvision on a backbone: what its weights do not say, but need."""

    name: str
    """Its function in `torchvision.models.detection`."""
    norm_eps: float
    """The eps of the batch norms in its weights COCO_V1. torchvision sets 0 for some detectors
    (`overwrite_eps`), because they were trained so."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `FastRCNNConfig` that differ from `fastrcnn.torchvision_detector.MODEL`."""
    rpn: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `RPNConfig` that differ from `fastrcnn.torchvision_detector.RPN`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneSpec:
    """A network up to its last convolutional map, its published weights, and the numbers that suit it."""

    name: str
    """The name in `--backbone` and in `FastRCNNConfig.backbone`."""
    body: Callable[[NormLayer], nn.Module]
    """Builds the network with random weights from a norm layer: `FrozenNorm` or `nn.BatchNorm2d`. A network
    without batch norms ignores the norm layer. Its children have the names of the published weights, so that
    these load by key. Called with images (N, 3, H, W), the network returns one map (N, C, H / stride,
    W / stride), or a dict of maps, finest first. It imports torch inside the function."""
    strides: tuple[int, ...]
    """Side of a cell of each map in pixels of the model frame, finest map first. Each stride divides 32
    (`fastrcnn.transform.PAD_MULTIPLE`)."""
    channels: tuple[int, ...]
    """Channels of each map of the network, finest first."""
    fpn_channels: int | None = None
    """Channels of a feature pyramid network on top of the maps (Lin et al. 2017). None: no such network."""
    fpn_norm: bool = False
    """Whether each convolution of the pyramid network has a batch norm."""
    norm_maps: bool = False
    """Whether each map gets a layer norm before the pyramid network. It suits networks whose published
    classifier normalises only its last map, such as ConvNeXt and Swin."""
    detectors: tuple[PublishedDetector, ...] = ()
    """torchvision's detectors on this backbone, whose state_dicts load by key. The first one is the detector
    of `--weights coco`."""
    chosen_on: tuple[str, ...] = ()
    """Where a training takes this backbone if nothing else is given: `cpu`, `gpu`, or `cpu coco` with
    `--weights coco` on a CPU. One backbone for each."""
    coco_backbone: str | None = None
    """The backbone of torchvision's detector on this network, if its maps are others. `--weights coco` then
    uses that backbone."""
    stages: tuple[str, ...]
    """The first child of each stage, in order. `frozen_stages` counts stages."""
    channels_last: bool = False
    """Whether a CPU uses the memory format channels-last. A training step on 2 cores then takes a quarter to
    a half of the time for mobilenet_v2 and resnet50 (with `FrozenNorm`), the same time for tiny, and two to
    three times as long for squeezenet. A GPU always uses channels-last."""

    imagenet: Callable[[], StateDict] | None = None
    """Downloads the newest weights, for `--weights imagenet`; see `torchvision_weights`. None: there are
    none."""
    imagenet_v1: Callable[[], StateDict] | None = None
    """Downloads the first weights, for `--weights imagenet_v1`. None: those of `imagenet`."""
    without_imagenet: str = "train it with weights 'none'"
    """Advice at the end of the error if `imagenet` is None."""
    weights_prefix: str = ""
    """Prefix of the network's keys in the published state_dict, e.g. ``features.``."""
    fc: tuple[str, str] | None = None
    """The two layers of the published classifier that become fc6 and fc7."""
    rename: Callable[[StateDict], dict[str, Tensor]] | None = None
    """Selects and renames the network's weights in a published state_dict. None: by `weights_prefix`."""
    folds_norms: bool = True
    """Whether each batch norm takes the output of the convolution that is registered before it, so that
    scoring may fold it into this convolution."""
    caffe_layers: Mapping[str, str] = field(default_factory=dict)
    """Caffe's name of a layer -> its name in the published state_dict, for `fastrcnn.backbones.caffe`. The
    layer that reads the image comes first. Empty: there is no .caffemodel for this network."""

    numbers: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `FastRCNNConfig` that this backbone changes in both presets."""
    paper: Mapping[str, Any] = field(default_factory=dict)
    """Fields that it changes only in the preset `paper`."""
    modern: Mapping[str, Any] = field(default_factory=dict)
    """Fields that it changes only in the preset `modern`."""

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
        """Number of channels C of each map that the head reads."""
        return self.fpn_channels or self.channels[0]

    def preset_numbers(self, preset: Preset, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Give the fields of `FastRCNNConfig` that this backbone sets in a preset.

        Args:
            changes: fields that the caller sets. A given `fc_dim` is the width of fc7 too, unless `fc7_dim`
                is also given.
        """
        numbers = {**self.numbers, **(self.paper if preset == "paper" else self.modern)}
        if "fc_dim" in changes:
            numbers.pop("fc7_dim", None)
        return numbers

    def imagenet_weights(self, *, first: bool = False) -> StateDict:
        """Download the ImageNet state_dict into torch's hub folder, unless it is there already.

        Args:
            first: download the first published weights, not the newest.

        Raises:
            ValueError: no ImageNet weights are published for this backbone.
            OSError: the download failed.
        """
        if self.imagenet is None:
            raise ValueError(
                f"backbone {self.name} has no ImageNet weights to download; {self.without_imagenet}"
            )
        return (first and self.imagenet_v1 or self.imagenet)()

    def body_weights(self, state_dict: StateDict) -> dict[str, Tensor]:
        """Select the weights of the network from a published state_dict, under the network's keys."""
        if self.rename is not None:
            return self.rename(state_dict)
        prefix = self.weights_prefix
        return {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}

    def fc_weights(self, state_dict: StateDict) -> dict[str, Tensor]:
        """Select the classifier's two hidden layers as `fc6.*` and `fc7.*`, if the state_dict has them."""
        return {
            f"{fc}.{part}": state_dict[f"{layer}.{part}"]
            for fc, layer in zip(("fc6", "fc7"), self.fc or (), strict=False)
            for part in ("weight", "bias")
            if f"{layer}.{part}" in state_dict
        }


def torchvision_weights(classifier: str, version: str = "IMAGENET1K_V1") -> Callable[[], StateDict]:
    """Make a function that downloads weights of a torchvision classifier.

    Args:
        version: name of the weights. It is fixed, so that a training that is resumed with a later torchvision
            has the same weights.
    """

    def download() -> StateDict:
        import torchvision

        weights = torchvision.models.get_model_weights(classifier)[version]
        # torch.hub's default would run any code that a pickle holds.
        state_dict = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        return cast("StateDict", state_dict)

    return download
