"""The networks that make feature maps: one spec each. Imports no torch.

spec          BackboneSpec, everything that depends on a backbone's name
caffenet, vgg, resnet, mobilenet, squeezenet, tiny
              the specs, with the function that builds each network
backbone      Backbone, the module that a spec is made into
layers        modules that torchvision lacks
convolution   faster convolutions for frozen norms and for one thread
caffe         Caffe's published weights

To add a backbone, write a file here whose `SPECS` is a tuple of `BackboneSpec`, and add its name to `FILES`.
"""

from __future__ import annotations

from importlib import import_module

from fastrcnn.backbones.spec import BackboneSpec, torchvision_weights

FILES = (
    "caffenet",
    "vgg",
    "resnet",
    "mobilenet",
    "squeezenet",
    "tiny",
)
"""The modules of this package that hold `SPECS`, in the order in which help and errors list the backbones."""

BACKBONE_SPECS: dict[str, BackboneSpec] = {
    spec.name: spec for file in FILES for spec in import_module(f"{__name__}.{file}").SPECS
}

__all__ = ["BACKBONE_SPECS", "FILES", "BackboneSpec", "backbone_spec", "torchvision_weights"]


def backbone_spec(name: str) -> BackboneSpec:
    """Look up what depends on a backbone's name.

    Raises:
        KeyError: no backbone has this name.
    """
    if name not in BACKBONE_SPECS:
        raise KeyError(f"backbone {name}: expected one of {', '.join(BACKBONE_SPECS)}")
    return BACKBONE_SPECS[name]
