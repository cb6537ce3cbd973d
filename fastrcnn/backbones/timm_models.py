"""Networks of the library timm as backbones: `timm/NAME` or `timm/NAME@REVISION`. Needs the extra `timm`.

The revision is a commit of the model's repository on the Hugging Face Hub. Only its file model.safetensors is
read, and no code. A network fits if it gives maps of several strides; plain vision transformers do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fastrcnn.backbones.spec import BackboneSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastrcnn.backbones.spec import NormLayer, StateDict

PREFIX = "timm/"
STRIDES = (4, 8, 16, 32)
"""Strides of the maps that are used."""
WEIGHTS = "model.safetensors"


class TimmError(ValueError):
    """The network cannot be a backbone. The message says what was expected."""


@cache
def timm_spec(name: str) -> BackboneSpec:
    """Make the spec of `timm/NAME` or `timm/NAME@REVISION`. The network is built on the meta device.

    Raises:
        TimmError: timm is not installed, has no such network, or the network cannot be a backbone.
    """
    model, _, revision = name.removeprefix(PREFIX).partition("@")
    net, kwargs = _describe(model)
    info = net.feature_info
    at_end = str(getattr(net, "output_fmt", "")).endswith("NHWC")
    stages = _stages(net)
    return BackboneSpec(
        name=name,
        body=partial(_body, model, kwargs, at_end),
        strides=tuple(info.reduction()),
        channels=tuple(info.channels()),
        fpn_channels=256,
        norm_maps=at_end,
        stages=stages,
        channels_last=not at_end,
        folds_norms=False,
        imagenet=partial(_download, model, revision or None),
        rename=partial(_rename, frozenset(net.state_dict())),
        # The first stage is everything up to the first map.
        numbers={"frozen_stages": int(len(stages) > 1)},
        modern={"scale": 800, "max_size": 1333},
    )


def newest_revision(name: str) -> str:
    """Ask the Hub for the newest commit of a network's weights.

    Raises:
        TimmError: there are no weights.
        OSError: the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    return str(HfApi().model_info(_repository(name.removeprefix(PREFIX))).sha)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise TimmError(
            "the extra timm to be installed (pip install 'fastrcnn-ray[timm]')"
        ) from error
    return timm


def _describe(model: str) -> tuple[Any, dict[str, Any]]:
    """Build the network without memory. Return it, and the arguments that select its maps."""
    import torch

    timm = _timm()
    if not timm.is_model(model):
        raise TimmError(f"a network of timm {timm.__version__}, which has no {model}")
    config = timm.get_pretrained_cfg(model)
    try:
        with torch.device("meta"):
            strides = timm.create_model(model, features_only=True).feature_info.reduction()
    except (RuntimeError, AttributeError, TypeError, NotImplementedError) as error:
        raise TimmError(f"a network that gives feature maps ({error})") from error
    indices = tuple(index for index, stride in enumerate(strides) if stride in STRIDES)
    chosen = [strides[index] for index in indices]
    if len(chosen) < 2 or any(fine >= coarse for fine, coarse in pairwise(chosen)):
        raise TimmError(
            f"a network whose maps have growing strides among {STRIDES}; those of {model} have"
            f" {tuple(strides)}. A plain vision transformer cannot be used"
        )
    _check_pixels(model, config)
    kwargs: dict[str, Any] = {"features_only": True, "out_indices": indices}
    if config is not None and config.fixed_input_size:
        kwargs["strict_img_size"] = False
    try:
        with torch.device("meta"):
            return timm.create_model(model, **kwargs), kwargs
    except TypeError as error:
        raise TimmError(f"a network for images of any size ({error})") from error


def _check_pixels(model: str, config: Any) -> None:
    """Raise TimmError if the network expects other pixels than torchvision's networks."""
    from fastrcnn.transform import IMAGE_MEAN, IMAGE_STD

    if config is None or (tuple(config.mean), tuple(config.std)) == (IMAGE_MEAN, IMAGE_STD):
        return
    raise TimmError(
        f"a network for pixels of mean {IMAGE_MEAN} and deviation {IMAGE_STD}; {model} has"
        f" {tuple(config.mean)} and {tuple(config.std)}"
    )


def _stages(net: Any) -> tuple[str, ...]:
    """Return the first child of each stage. A stage ends with a map."""
    children = [name for name, _ in net.named_children()]
    ends = [name.replace(".", "_") for name in net.feature_info.module_name()]
    if not set(ends) <= set(children):  # the maps are inside of children
        return (children[0],)
    starts = [children[children.index(end) + 1] for end in ends[:-1]]
    return (children[0], *starts)


def _body(model: str, kwargs: Mapping[str, Any], at_end: bool, norm: NormLayer) -> nn.Module:
    from torch import nn

    timm = _timm()
    net: nn.Module = timm.create_model(model, pretrained=False, **kwargs)
    if norm is not nn.BatchNorm2d:
        net = timm.layers.freeze_batch_norm_2d(net)
    net.register_forward_hook(partial(_as_maps, at_end))
    return net


def _as_maps(at_end: bool, _net: nn.Module, _inputs: Any, maps: list[Tensor]) -> dict[str, Tensor]:
    """Turn timm's list of maps into maps (N, C, H, W) by name."""
    return {str(n): x.permute(0, 3, 1, 2) if at_end else x for n, x in enumerate(maps)}


def _rename(expected: frozenset[str], published: StateDict) -> dict[str, Tensor]:
    """Give published weights the names that timm's feature networks have: stages.0.x becomes stages_0.x."""
    renamed = {}
    for name, tensor in published.items():
        parts = name.split(".")
        names = [
            "_".join(parts[:end]) + "." + ".".join(parts[end:]) for end in range(1, len(parts))
        ]
        for candidate in (*names, f"model.{name}"):
            if candidate in expected:
                renamed[candidate] = tensor
                break
    return renamed


def _repository(model: str) -> str:
    config = _timm().get_pretrained_cfg(model.partition("@")[0])
    if config is None or not config.hf_hub_id:
        raise TimmError(f"backbone {PREFIX}{model} has no published weights; give weights 'none'")
    return str(config.hf_hub_id)


def _download(model: str, revision: str | None) -> StateDict:
    """Download the weights of one revision, unless they are in the Hub's cache."""
    if revision is None:
        raise TimmError(f"backbone {PREFIX}{model} has no revision: give {PREFIX}{model}@COMMIT")
    from huggingface_hub import hf_hub_download
    from safetensors.torch import load_file

    path = hf_hub_download(_repository(model), WEIGHTS, revision=revision)
    return load_file(path)
