"""Published Caffe weights: their file format, and that the network computes the same as Caffe's."""

from __future__ import annotations

import math

import pytest
import safetensors.torch
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fastrcnn.backbones.caffe import CAFFE_MEAN_BGR, caffe_state_dict, read_caffemodel
from fastrcnn.config import FastRCNNConfig
from fastrcnn.model import FastRCNN, load_pretrained
from fastrcnn.pooling import roi_max_pool
from fastrcnn.transform import batch_images
from tests.fastrcnn.caffe_file import caffemodel

Layers = dict[str, tuple[Tensor, Tensor]]
M_SHAPES = {
    "conv1": (96, 3, 7, 7),
    "conv2": (256, 96, 5, 5),
    "conv3": (512, 256, 3, 3),
    "conv4": (512, 512, 3, 3),
    "conv5": (512, 512, 3, 3),
    "fc6": (24, 512 * 6 * 6),  # 4096 outputs in the published file
    "fc7": (10, 24),  # 1024
    "fc8": (7, 10),  # 1000
}


def network(shapes: dict[str, tuple[int, ...]]) -> Layers:
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for name, shape in shapes.items():
        scale = math.sqrt(2 / math.prod(shape[1:])) / (60 if name == "conv1" else 1)
        bias = 0.1 * torch.randn(shape[0], generator=generator)
        layers[name] = (torch.randn(shape, generator=generator) * scale, bias)
    return layers


@pytest.fixture(scope="module")
def vgg_m() -> tuple[Layers, bytes]:
    layers = network(M_SHAPES)
    return layers, caffemodel(layers, generation=1)


def caffe_lrn(x: Tensor) -> Tensor:
    """Compute Caffe's lrn_layer.cpp, one channel at a time: local_size 5, alpha 5e-4, beta .75, k 2."""
    channels = []
    for c in range(x.shape[1]):
        near = x[:, max(c - 2, 0) : c + 3].square().sum(dim=1)
        channels.append(x[:, c] / (2 + 5e-4 / 5 * near) ** 0.75)
    return torch.stack(channels, dim=1)


def caffe_pool(x: Tensor) -> Tensor:
    """Compute Caffe's pooling_layer.cpp: the maximum of 3 x 3 at stride 2, up to the last cell."""
    rows, columns = (math.ceil((length - 3) / 2) + 1 for length in x.shape[2:])
    out = x.new_empty(*x.shape[:2], rows, columns)
    for i in range(rows):
        for j in range(columns):
            window = x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            out[:, :, i, j] = window.amax(dim=(2, 3))
    return out


def caffe_vgg_m(layers: Layers, pixels: Tensor) -> Tensor:
    """Compute conv5 of the published prototxt in float64, from BGR pixels 0..255 minus their mean."""
    w = {name: [blob.double() for blob in blobs] for name, blobs in layers.items()}
    x = pixels - pixels.new_tensor(CAFFE_MEAN_BGR)[:, None, None]
    x = caffe_pool(caffe_lrn(F.conv2d(x, *w["conv1"], stride=2).relu()))
    x = caffe_pool(caffe_lrn(F.conv2d(x, *w["conv2"], stride=2, padding=1).relu()))
    for name in ("conv3", "conv4", "conv5"):
        x = F.conv2d(x, *w[name], padding=1).relu()
    return x


def test_the_network_computes_the_same_as_caffes(vgg_m: tuple[Layers, bytes]) -> None:
    layers, data = vgg_m
    config = FastRCNNConfig.paper(3, backbone="vgg_m", fc_dim=24, fc7_dim=10, scale=160)
    model = FastRCNN(config).eval()
    assert load_pretrained(model, caffe_state_dict(data, "vgg_m")) == ["backbone", "fc6", "fc7"]
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (160, 192, 3), dtype=torch.uint8, generator=generator)
    rois = torch.tensor([[0.0, 0, 0, 191, 159], [0.0, 30, 20, 100, 140]])
    with torch.no_grad():
        batch = batch_images([image], 160, 1000).images
        assert batch.shape[2:] == (160, 192)  # neither scaled nor padded: then it is exact
        (ours,) = model.backbone(batch)
        caffes = caffe_vgg_m(layers, image.permute(2, 0, 1)[None].double().flip(1))
        assert caffes.shape == (1, 512, 9, 11)
        assert caffes.std() > 0.05
        torch.testing.assert_close(ours.double(), caffes, rtol=1e-4, atol=1e-4)
        x = roi_max_pool(caffes, rois.double(), 6, 1 / 16).flatten(1)
        for name in ("fc6", "fc7"):
            x = F.linear(x, *(blob.double() for blob in layers[name])).relu()
        logits, _ = model(batch, rois)
        torch.testing.assert_close(
            logits.double(), model.head.double().cls_score(x), rtol=1e-3, atol=1e-5
        )


def test_a_converted_copy_is_a_safetensors_file_like_any_other(
    vgg_m: tuple[Layers, bytes],
) -> None:
    converted = caffe_state_dict(vgg_m[1], "vgg_m")
    again = safetensors.torch.load(safetensors.torch.save(converted))
    assert "fc8.weight" not in again
    assert sorted(again) == sorted(f"{n}.{p}" for n in M_SHAPES if n != "fc8" for p in PARTS)
    assert all(torch.equal(again[key], value) for key, value in converted.items())


PARTS = ("weight", "bias")
VGG16_LAYERS = ["conv1_1", "conv1_2", "conv2_1", "conv2_2"] + [
    f"conv{block}_{n}" for block in (3, 4, 5) for n in (1, 2, 3)
]


def vgg16_layers() -> Layers:
    """Make the layers of the published network. All but the first have two channels."""
    shapes: dict[str, tuple[int, ...]] = {name: (2, 2, 3, 3) for name in VGG16_LAYERS}
    return network(shapes | {"conv1_1": (2, 3, 3, 3), "fc6": (3, 2), "fc7": (3, 3)})


def test_vgg16_has_the_names_of_torchvision() -> None:
    layers = vgg16_layers()
    converted = caffe_state_dict(caffemodel(layers), "vgg16")
    with torch.device("meta"):
        donor = torchvision.models.vgg16(weights=None).state_dict()
    assert set(converted) == {key for key in donor if not key.startswith("classifier.6")}
    assert torch.equal(converted["features.28.weight"], layers["conv5_3"][0])
    assert torch.equal(converted["classifier.3.bias"], layers["fc7"][1])


def test_a_padded_first_layer_differs_only_at_the_border() -> None:
    layers = vgg16_layers()
    converted = caffe_state_dict(caffemodel(layers), "vgg16")
    image = torch.randint(
        0, 256, (32, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    ours = F.conv2d(
        batch_images([image], 32, 100).images,
        *(converted[f"features.0.{part}"] for part in PARTS),
        padding=1,
    )
    bgr = image.permute(2, 0, 1)[None].float().flip(1)
    mean_free = bgr - torch.tensor(CAFFE_MEAN_BGR)[:, None, None]
    weight, bias = layers["conv1_1"]
    caffes = F.conv2d(mean_free, weight, bias, padding=1)
    difference = (ours - caffes).abs()
    # Float32's rounding of sums of 27 products, of values up to 255.
    assert difference[:, :, 1:-1, 1:-1].max() < 1e-3
    # Caffe's zero is its mean colour, ours is ImageNet's: up to .91 grey levels apart.
    assert 1e-2 < difference.max() < 0.91 * weight.abs().sum(dim=(1, 2, 3)).max()


@pytest.mark.parametrize("generation", [0, 1, 2])
@pytest.mark.parametrize("double", [False, True])
def test_every_generation_of_the_format_is_read(generation: int, double: bool) -> None:
    layers = network({"conv1": (2, 3, 4, 4), "fc": (3, 5)})
    read = read_caffemodel(caffemodel(layers, generation=generation, double=double))
    assert list(read) == ["conv1", "fc"]  # the data layer has no blobs
    for name, blobs in layers.items():
        for got, given_blob in zip(read[name], blobs, strict=True):
            assert got.dtype == torch.float32
            assert torch.equal(got.reshape(given_blob.shape), given_blob)
    assert read["fc"][0].shape == ((3, 5) if generation == 2 else (1, 1, 3, 5))


def test_numbers_that_are_not_packed_are_read_too() -> None:
    # Field 100: a layer named "a" with one blob of shape [1, 2] and two separate floats, 1.0 and -2.0.
    blob = bytes.fromhex("3a04 0801 0802 2d 0000803f 2d 000000c0")
    layer = b"\x0a\x01a" + b"\x3a" + bytes([len(blob)]) + blob
    read = read_caffemodel(b"\xa2\x06" + bytes([len(layer)]) + layer)
    assert read["a"][0].tolist() == [[1.0, -2.0]]


def test_a_file_cut_anywhere_is_refused() -> None:
    data = caffemodel(vgg16_layers())
    caffe_state_dict(data, "vgg16")
    for length in range(0, len(data), 7):
        with pytest.raises(ValueError, match=r"damaged|no layer|not a vgg16"):
            caffe_state_dict(data[:length], "vgg16")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 300))
def test_bytes_of_any_kind_are_read_or_refused(noise: bytes, at: int) -> None:
    small = caffemodel({"conv1": (torch.ones(1, 3, 2, 2), torch.ones(1))})
    for data in (noise, small[:at] + noise + small[at + len(noise) :]):
        try:
            layers = read_caffemodel(data)
        except ValueError:
            continue
        assert all(blob.dtype == torch.float32 for blobs in layers.values() for blob in blobs)


def test_another_networks_file_is_refused_with_the_reason() -> None:
    ones = torch.ones(2)
    with pytest.raises(ValueError, match="only for vgg_m, vgg16"):
        caffe_state_dict(b"", "resnet50")
    with pytest.raises(ValueError, match="holds no layer with weights"):
        caffe_state_dict(b"", "vgg_m")
    with pytest.raises(ValueError, match="no layer 'conv1' of weights and biases: not a vgg_m"):
        caffe_state_dict(caffemodel(vgg16_layers()), "vgg_m")
    grey = network({"conv1": (96, 1, 7, 7)})
    with pytest.raises(
        ValueError,
        match=r"'conv1' has weights \(96, 1, 7, 7\) and biases \(96,\); expected 3 colours",
    ):
        caffe_state_dict(caffemodel(grey), "vgg_m")
    with pytest.raises(ValueError, match=r"weights of shape \(2,\)"):
        caffe_state_dict(caffemodel({"conv1": (ones, ones)}), "vgg_m")
    model = FastRCNN(FastRCNNConfig.paper(3, backbone="vgg_m", fc_dim=8))
    odd = network({name: (2, 3, 3, 3) for name in M_SHAPES})
    with pytest.raises(ValueError, match=r"not weights of vgg_m: 10 of 10"):
        load_pretrained(model, caffe_state_dict(caffemodel(odd), "vgg_m"))
