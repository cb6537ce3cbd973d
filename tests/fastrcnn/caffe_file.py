"""Writes .caffemodel files with protobuf's own library, from the message definitions of caffe.proto."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from torch import Tensor

Layers = Mapping[str, Sequence[Tensor]]
_FIELDS = {  # name: (number, type), + for repeated, * for repeated and packed
    "BlobShape": {"dim": (1, "*int64")},
    "BlobProto": {
        "num": (1, "int32"),
        "channels": (2, "int32"),
        "height": (3, "int32"),
        "width": (4, "int32"),
        "data": (5, "*float"),
        "shape": (7, "BlobShape"),
        "double_data": (8, "*double"),
    },
    "LayerParameter": {"name": (1, "string"), "type": (2, "string"), "blobs": (7, "+BlobProto")},
    "V0LayerParameter": {"name": (1, "string"), "type": (2, "string"), "blobs": (50, "+BlobProto")},
    "V1LayerParameter": {
        "layer": (1, "V0LayerParameter"),
        "bottom": (2, "+string"),
        "name": (4, "string"),
        "type": (5, "int32"),
        "blobs": (6, "+BlobProto"),
        "blobs_lr": (7, "+float"),
    },
    "NetParameter": {
        "name": (1, "string"),
        "layers": (2, "+V1LayerParameter"),
        "input": (3, "+string"),
        "input_dim": (4, "+int32"),
        "layer": (100, "+LayerParameter"),
    },
}


def _message(name: str) -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for message, fields in _FIELDS.items():
        declared = file.message_type.add(name=message)
        for field, (number, kind) in fields.items():
            base = kind.lstrip("+*")
            entry = declared.field.add(name=field, number=number, label=1 if base == kind else 3)
            if base in _FIELDS:
                entry.type, entry.type_name = 11, f".caffe.{base}"
            else:
                entry.type = {"double": 1, "float": 2, "int64": 3, "int32": 5, "string": 9}[base]
            entry.options.packed = kind.startswith("*")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))()


def caffemodel(layers: Layers, *, generation: int = 2, double: bool = False) -> bytes:
    """Write a net with these blobs, after a layer without blobs, in the format of 2013 (0), 2014 or 2015."""
    net = _message("NetParameter")
    net.name = "synthetic"
    net.input.append("data")
    net.input_dim.extend([1, 3, 224, 224])
    for name in ("data", *layers):
        if generation == 2:
            layer = net.layer.add(name=name, type="Some")
        elif generation == 1:
            layer = net.layers.add(name=name, type=4, blobs_lr=[1.0, 2.0], bottom=["below"])
        else:
            layer = net.layers.add(bottom=["below"]).layer
            layer.name, layer.type = name, "some"
        for values in layers.get(name, ()):
            blob = layer.blobs.add()
            (blob.double_data if double else blob.data).extend(values.flatten().tolist())
            shape = list(values.shape)
            if generation == 2:
                blob.shape.dim.extend(shape)
            else:
                blob.num, blob.channels, blob.height, blob.width = [1] * (4 - len(shape)) + shape
    data: bytes = net.SerializeToString()
    return data
