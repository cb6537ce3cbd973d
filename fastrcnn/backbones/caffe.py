"""Reads published Caffe weights without Caffe, such as those of the paper's networks M and L.

    VGG_CNN_M_1024.caffemodel         vgg_m   Chatfield et al. 2014
    VGG_ILSVRC_16_layers.caffemodel   vgg16   Simonyan and Zisserman 2015

`--weights` takes such a file. This keeps a converted copy, which needs no such reader:

    safetensors.torch.save_file(caffe_state_dict(path.read_bytes(), "vgg_m"), "vgg_m.safetensors")

A .caffemodel is one NetParameter message in protobuf's wire format (caffe.proto of caffe-fast-rcnn). Only
the names and weights of layers are read, in each of the three generations of that format.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastrcnn.backbones import BACKBONE_SPECS, backbone_spec
from fastrcnn.transform import IMAGE_MEAN, IMAGE_STD

CAFFE_MEAN_BGR = (102.9801, 115.9465, 122.7717)
"""The mean that the reference code subtracts from pixels 0..255, for S, M and L (fast-rcnn config.py)."""


def caffe_state_dict(data: bytes, backbone: str) -> dict[str, Tensor]:
    """Read the weights for `fastrcnn.model.load_pretrained` from a .caffemodel's bytes.

    Caffe's network takes BGR pixels p in 0..255 minus their mean m. Ours takes RGB x = (p / 255 - mean) /
    std, so p = 255 (std x + mean). Therefore the weights w of the first layer are multiplied by 255 std and
    their channels are reversed, and the sum of w (255 mean - m) is added to its bias. Then both networks
    compute the same function of the image.

    They differ only at cells that read padding. Caffe pads with its mean colour. We pad with ours, which is
    .3 to .9 grey levels lighter. This concerns the border of vgg16's conv1_1, and in both networks the
    padding of an image to the size of its batch.

    With learning rate r, a converted weight of the first layer changes as Caffe's would with r / (255 std)^2,
    which is r / 3300: hardly at all. The paper does not train conv1.

    Args:
        data: the bytes of the file.
        backbone: a backbone whose spec has `caffe_layers`.

    Returns:
        float32 tensors, without the layers after fc7.

    Raises:
        ValueError: the file is damaged or is not a .caffemodel, or lacks a layer; or the spec has no
            `caffe_layers`.
    """
    modules = backbone_spec(backbone).caffe_layers
    if not modules:
        known = [name for name, spec in BACKBONE_SPECS.items() if spec.caffe_layers]
        raise ValueError(f"no Caffe weights are known for {backbone}, only for {', '.join(known)}")
    layers = read_caffemodel(data)
    state_dict: dict[str, Tensor] = {}
    for number, (layer, module) in enumerate(modules.items()):
        if len(layers.get(layer, ())) != 2:
            raise ValueError(f"has no layer {layer!r} of weights and biases: not a {backbone}")
        weight, bias = layers[layer][0], layers[layer][1].flatten()
        if weight.ndim not in (2, 4):
            raise ValueError(
                f"layer {layer!r} has weights of shape {tuple(weight.shape)}; expected 2 or 4 dimensions"
            )
        if layer.startswith("fc"):
            weight = weight.flatten(0, -2)  # older files: (1, 1, outputs, inputs)
        if number == 0:
            if weight.shape[1:2] != (3,) or weight.shape[:1] != bias.shape:
                raise ValueError(
                    f"layer {layer!r} has weights {tuple(weight.shape)} and biases {tuple(bias.shape)};"
                    " expected 3 colours and a bias for each output"
                )
            weight, bias = _for_normalised_rgb(weight, bias)
        state_dict |= {f"{module}.weight": weight, f"{module}.bias": bias}
    return state_dict


def _for_normalised_rgb(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Convert weight (O, 3, k, k) and bias (O,) of the first layer: from BGR minus a mean to our RGB."""
    rgb = weight.double().flip(1)
    step = 255 * rgb.new_tensor(IMAGE_STD)
    lighter = 255 * rgb.new_tensor(IMAGE_MEAN) - rgb.new_tensor(CAFFE_MEAN_BGR).flip(0)
    folded = bias.double() + rgb.sum(dim=(2, 3)) @ lighter
    return (rgb * step[:, None, None]).float(), folded.float()


def read_caffemodel(data: bytes) -> dict[str, list[Tensor]]:
    """Read the blobs of each layer that has any: float32, in their stored shapes.

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
        raise ValueError("is not a .caffemodel: it holds no layer with weights")
    return layers


_Value = int | memoryview
"""The value of a field: an integer, or the bytes of a number, string, packed list or message."""


def _blob(fields: dict[int, list[_Value]]) -> Tensor:
    """Read a BlobProto: data (5) or double_data (8) in a shape (7), or num, channels, height, width."""
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
    """Yield (field number, value) for each field of a message (protobuf's encoding guide), without copies."""
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
            raise ValueError(f"is not a .caffemodel: it has a field of wire type {wire_type}")
        if at + length > len(message):
            raise ValueError(f"is damaged: a field of {length} bytes has only {len(message) - at}")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Read an integer stored with 7 bits per byte, lowest first. Return it and the position after it."""
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
    """Read a repeated integer field, packed or not."""
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(number)
    return numbers


def _bytes(value: _Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("is not a .caffemodel: expected a message, not an integer")
    return value
