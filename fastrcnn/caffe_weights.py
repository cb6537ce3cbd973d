"""The published Caffe weights of the paper's networks M and L, read without Caffe.

    VGG_CNN_M_1024.caffemodel         vgg_m   Chatfield et al. 2014
    VGG_ILSVRC_16_layers.caffemodel   vgg16   Simonyan and Zisserman 2015

`--weights` takes such a file as it is. To keep a converted copy, which any machine reads without this module:

    safetensors.torch.save_file(caffe_state_dict(path.read_bytes(), "vgg_m"), "vgg_m.safetensors")

A .caffemodel is one NetParameter message in protobuf's wire format (caffe.proto of caffe-fast-rcnn). Only
names and weights of layers are looked at, in each of the three generations of that format.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastrcnn.transform import IMAGE_MEAN, IMAGE_STD

CAFFE_MEAN_BGR = (102.9801, 115.9465, 122.7717)
"""What the reference subtracts from pixels 0..255 for all of S, M and L (fast-rcnn config.py)."""

_VGG16_CONVS = (
    *("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3"),
    *("conv4_1", "conv4_2", "conv4_3", "conv5_1", "conv5_2", "conv5_3"),
)
_VGG16_MODULES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
_MODULES: dict[str, dict[str, str]] = {
    "vgg_m": {
        layer: layer for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
    },
    "vgg16": {layer: f"features.{n}" for layer, n in zip(_VGG16_CONVS, _VGG16_MODULES, strict=True)}
    | {"fc6": "classifier.0", "fc7": "classifier.3"},
}
"""Caffe's layer -> module of the classifier that `fastrcnn.model.load_pretrained` expects; conv1 first."""


def caffe_state_dict(data: bytes, backbone: str) -> dict[str, Tensor]:
    """Weights for `fastrcnn.model.load_pretrained` from a .caffemodel's bytes.

    Caffe's network takes BGR pixels p in 0..255 minus their mean m, ours RGB x = (p / 255 - mean) / std. With
    p = 255 (std x + mean) put in, the first layer's weights w become 255 std w with their channels reversed,
    its bias b grows by the sum of w (255 mean - m): the same function of the image. Where a convolution reads
    beyond the image it is not: Caffe pads with its mean colour, we with ours, .3 to .9 grey levels lighter.
    That is the rim of vgg16's conv1_1, and for both the padding on the right and below that takes an image to
    its batch's size. Trained at rate r, a folded weight moves as Caffe's would at r / (255 std)^2, r / 3300:
    as good as not at all. The paper keeps conv1 as it is.

    Args:
        data: of the file.
        backbone: `vgg_m` or `vgg16`.

    Returns:
        float32 tensors; layers after fc7 are left out.

    Raises:
        ValueError: the file is damaged or no .caffemodel, lacks a layer, or the backbone has no Caffe twin.
    """
    if backbone not in _MODULES:
        raise ValueError(
            f"no Caffe weights are known for {backbone}, only for {', '.join(_MODULES)}"
        )
    layers = read_caffemodel(data)
    state_dict: dict[str, Tensor] = {}
    for number, (layer, module) in enumerate(_MODULES[backbone].items()):
        if len(layers.get(layer, ())) != 2:
            raise ValueError(f"has no layer {layer!r} of weights and biases: not a {backbone}")
        weight, bias = layers[layer][0], layers[layer][1].flatten()
        if weight.ndim not in (2, 4):
            raise ValueError(f"layer {layer!r} has weights of shape {tuple(weight.shape)}")
        if layer.startswith("fc"):
            weight = weight.flatten(0, -2)  # older files: (1, 1, outputs, inputs)
        if number == 0:
            if weight.shape[1:2] != (3,) or weight.shape[:1] != bias.shape:
                raise ValueError(
                    f"layer {layer!r} has weights {tuple(weight.shape)}, not of colours"
                )
            weight, bias = _for_normalised_rgb(weight, bias)
        state_dict |= {f"{module}.weight": weight, f"{module}.bias": bias}
    return state_dict


def _for_normalised_rgb(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The first layer (O, 3, k, k), (O,) of a net of mean-free BGR, as one of `transform`'s RGB."""
    rgb = weight.double().flip(1)
    step = 255 * rgb.new_tensor(IMAGE_STD)
    lighter = 255 * rgb.new_tensor(IMAGE_MEAN) - rgb.new_tensor(CAFFE_MEAN_BGR).flip(0)
    folded = bias.double() + rgb.sum(dim=(2, 3)) @ lighter
    return (rgb * step[:, None, None]).float(), folded.float()


def read_caffemodel(data: bytes) -> dict[str, list[Tensor]]:
    """The blobs, float32 and in their stored shapes, of each layer that has any.

    Raises:
        ValueError: the bytes are not a whole NetParameter, or hold no layer with weights.
    """
    layers: dict[str, list[Tensor]] = {}
    for number, value in _fields(memoryview(data)):
        if number not in (2, 100):  # V1LayerParameter layers, LayerParameter layer
            continue
        layer = _message(value)
        name, blobs = (1, 7) if number == 100 else (4, 6)
        if number == 2 and 1 in layer:  # a V0LayerParameter, wrapped
            layer, name, blobs = _message(layer[1][0]), 1, 50
        if blobs in layer and name in layer:
            key = bytes(_bytes(layer[name][0])).decode()
            layers[key] = [_blob(_message(blob)) for blob in layer[blobs]]
    if not layers:
        raise ValueError("is no .caffemodel: it holds no layer with weights")
    return layers


_Value = int | memoryview
"""Of a field: an integer, or the bytes of a number, string, packed list or message."""


def _blob(fields: dict[int, list[_Value]]) -> Tensor:
    """A BlobProto: data (5) or double_data (8) in a shape (7), or num, channels, height, width."""
    if 7 in fields:
        shape = [dim for value in _message(fields[7][0]).get(1, []) for dim in _integers(value)]
    else:
        shape = [_integers(fields[n][0])[0] if n in fields else 0 for n in (1, 2, 3, 4)]
    kind, chunks = ("<f4", fields[5]) if 5 in fields else ("<f8", fields.get(8, []))
    parts = [np.frombuffer(_bytes(chunk), kind) for chunk in chunks]
    values: npt.NDArray[np.float32] = np.concatenate([np.zeros(0, np.float32), *parts])
    if not len(values) or math.prod(shape) != len(values):
        raise ValueError(f"is damaged: {len(values)} weights in a blob of shape {shape}")
    return torch.from_numpy(values.astype(np.float32, copy=False).reshape(shape))


def _message(value: _Value) -> dict[int, list[_Value]]:
    grouped: dict[int, list[_Value]] = {}
    for number, field in _fields(_bytes(value)):
        grouped.setdefault(number, []).append(field)
    return grouped


def _fields(message: memoryview) -> Iterator[tuple[int, _Value]]:
    """(field number, value) of each field of a message (protobuf's encoding guide), without copies."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire_type = key & 7
        if wire_type == 0:
            number, at = _varint(message, at)
            yield key >> 3, number
            continue
        if wire_type == 2:
            length, at = _varint(message, at)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"is no .caffemodel: wire type {wire_type} in it")
        if at + length > len(message):
            raise ValueError(f"is damaged: a field of {length} bytes has {len(message) - at} left")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, lowest first, and where it ends."""
    result = 0
    for shift in range(0, 70, 7):
        if at == len(message):
            break
        byte = message[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
    raise ValueError("is damaged: an integer does not end")


def _integers(value: _Value) -> list[int]:
    """A repeated integer field, packed or not."""
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(number)
    return numbers


def _bytes(value: _Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("is no .caffemodel: an integer where a message is due")
    return value
