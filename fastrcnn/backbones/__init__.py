"""The networks that make feature maps: one spec each. Imports no torch.

spec          BackboneSpec, everything that depends on a backbone's name
caffenet, vgg, resnet, mobilenet, mobilenet_v3, convnext, swin, efficientnet, squeezenet, tiny
              the specs, with the function that builds each network
backbone      Backbone, the module that is made from a spec
timm_models   specs of networks of the library timm, made from their names
layers        modules that torchvision does not have
convolution   faster convolutions for frozen norms and for one thread
caffe         Caffe's published weights

To add a backbone, write a file here whose `SPECS` is a tuple of `BackboneSpec`, and add its name to `FILES`.
"""

from __future__ import annotations

from importlib import import_module

from fastrcnn.backbones.spec import BackboneSpec, PublishedDetector, torchvision_weights

FILES = (
    "caffenet",
    "vgg",
    "resnet",
    "mobilenet",
    "mobilenet_v3",
    "convnext",
    "swin",
    "efficientnet",
    "squeezenet",
    "tiny",
)
"""The modules of this package that hold `SPECS`, in the order in which help and errors list the backbones."""

BACKBONE_SPECS: dict[str, BackboneSpec] = {
    spec.name: spec for file in FILES for spec in import_module(f"{__name__}.{file}").SPECS
}

CHOSEN_BACKBONES = {
    place: spec.name for spec in BACKBONE_SPECS.values() for place in spec.chosen_on
}
"""Place -> name of the backbone that a training takes there, see `BackboneSpec.chosen_on`."""

TIMM = "timm/"
"""Prefix of the networks of the library timm."""
KNOWN = f"{', '.join(BACKBONE_SPECS)}, or {TIMM}NAME"
"""The names that `backbone_spec` knows, as text."""

__all__ = [
    "BACKBONE_SPECS",
    "FILES",
    "BackboneSpec",
    "PublishedDetector",
    "backbone_spec",
    "network_name",
    "torchvision_weights",
]


def backbone_spec(name: str) -> BackboneSpec:
    """Return the spec of a backbone. That of `timm/NAME` is made from the name.

    Raises:
        KeyError: no backbone has this name.
        ValueError: the network of timm cannot be a backbone. The message says what was expected.
    """
    if name.startswith(TIMM):
        from fastrcnn.backbones.timm_models import timm_spec

        return timm_spec(name)
    if name not in BACKBONE_SPECS:
        raise KeyError(f"backbone {name}: expected one of {KNOWN}")
    return BACKBONE_SPECS[name]


def network_name(name: str) -> str:
    """Return a backbone's name without the revision of its weights: timm/NAME@REVISION gives timm/NAME."""
    return name.partition("@")[0] if name.startswith(TIMM) else name
