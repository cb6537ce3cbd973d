"""Everything that depends on a backbone's name, and how to add a backbone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastrcnn.backbones import BACKBONE_SPECS, FILES, BackboneSpec, backbone_spec
from fastrcnn.backbones.backbone import Backbone
from fastrcnn.backbones.layers import Levels
from fastrcnn.config import BACKBONES, FastRCNNConfig
from fastrcnn.detection import detect
from fastrcnn.loss import Target, training_loss
from fastrcnn.model import FastRCNN, load_pretrained
from fastrcnn.transform import PAD_MULTIPLE

CHECKOUT = Path(__file__).resolve().parents[3]


def two_maps(norm: object) -> nn.Module:
    """Build a small network: two convolutions, and the map of each."""
    net = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 16, 2, 2))
    return Levels(net, ("0", "1"))


MADE_UP = BackboneSpec(
    name="made_up",
    body=two_maps,
    strides=(4, 8),
    channels=(8, 16),
    fpn_channels=12,
    stages=("0", "1"),
    imagenet=lambda: {f"net.{k}": v / 2 for k, v in two_maps(None).state_dict().items()},
    weights_prefix="net.",
    numbers={"pool_size": 3, "fc_dim": 24, "fc7_dim": 10},
    modern={"frozen_stages": 1, "scale": 64, "max_size": 100},
)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONE_SPECS, "made_up", MADE_UP)


@pytest.mark.usefixtures("made_up")
def test_a_backbone_that_is_one_spec_trains_a_step_and_detects() -> None:
    torch.manual_seed(0)
    model = FastRCNN(FastRCNNConfig.modern(2, backbone="made_up", score_threshold=0.0)).train()
    assert load_pretrained(model, MADE_UP.imagenet_weights()) == ["backbone"]
    images = [torch.randint(0, 255, (60, 80, 3), dtype=torch.uint8)]
    boxes = torch.tensor([[5.0, 5, 40, 50], [20, 10, 70, 55], [0, 0, 9, 9]])
    before = {k: v.clone() for k, v in model.named_parameters()}
    target = Target(boxes, gt_boxes=boxes[:1], gt_labels=torch.tensor([1]))
    training_loss(model, images, [target], seeds=[0]).total.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01).step()
    moved = {k for k, v in model.named_parameters() if not torch.equal(v, before[k])}
    assert "backbone.body.1.weight" in moved
    assert "backbone.body.0.weight" not in moved, "the preset freezes the first stage"
    (detections,) = detect(model.eval(), images, [boxes])
    assert len(detections.boxes) > 0
    assert detections.boxes.max() <= 80


@pytest.mark.usefixtures("made_up")
def test_a_spec_sets_numbers_of_the_presets_and_flags_win() -> None:
    paper = FastRCNNConfig.paper(2, backbone="made_up")
    modern = FastRCNNConfig.modern(2, backbone="made_up")
    assert (paper.pool_size, paper.fc_dim, paper.fc7_dim) == (3, 24, 10)
    assert (paper.frozen_stages, paper.scale, paper.max_size) == (2, 600, 1000)
    assert (modern.pool_size, modern.fc_dim, modern.fc7_dim) == (3, 24, 10)
    assert (modern.frozen_stages, modern.scale, modern.max_size) == (1, 64, 100)
    assert FastRCNNConfig.modern(2, backbone="made_up", scale=80).scale == 80
    narrow = FastRCNNConfig.paper(2, backbone="made_up", fc_dim=5)
    assert (narrow.fc_dim, narrow.fc7_dim) == (5, None), "fc7 is as wide as the fc6 that is given"


@pytest.mark.parametrize(
    ("backbone", "paper", "modern"),
    [  # pool_size, fc_dim, fc7_dim, frozen_stages, scale, max_size
        ("caffenet", (6, 4096, None, 1, 600, 1000), (6, 4096, None, 2, 600, 1000)),
        ("vgg_m", (6, 4096, 1024, 1, 600, 1000), (6, 4096, 1024, 2, 600, 1000)),
        ("vgg16", (7, 4096, None, 2, 600, 1000), (7, 4096, None, 2, 600, 1000)),
        ("resnet50", (7, 1024, None, 2, 600, 1000), (7, 1024, None, 2, 600, 1000)),
        ("resnet50_fpn", (7, 1024, None, 2, 600, 1000), (7, 1024, None, 2, 800, 1333)),
        ("mobilenet_v2", (7, 1024, None, 2, 600, 1000), (7, 1024, None, 2, 600, 1000)),
        ("mobilenet_v3_large_fpn", (7, 1024, None, 2, 600, 1000), (7, 1024, None, 2, 600, 1000)),
        ("convnext_tiny", (7, 1024, None, 2, 600, 1000), (7, 1024, None, 2, 800, 1333)),
        ("squeezenet1_0", (7, 1024, None, 2, 600, 1000), (7, 1024, None, 2, 600, 1000)),
        ("squeezenet1_1", (7, 1024, None, 2, 600, 1000), (7, 1024, None, 2, 600, 1000)),
        ("tiny", (7, 1024, None, 2, 600, 1000), (7, 1024, None, 0, 600, 1000)),
    ],
)
def test_the_presets_have_these_numbers(
    backbone: str, paper: tuple[int | None, ...], modern: tuple[int | None, ...]
) -> None:
    names = ("pool_size", "fc_dim", "fc7_dim", "frozen_stages", "scale", "max_size")
    for preset, expected in ((FastRCNNConfig.paper, paper), (FastRCNNConfig.modern, modern)):
        config = preset(2, backbone=backbone)
        assert tuple(getattr(config, name) for name in names) == expected


@pytest.mark.parametrize("name", BACKBONES)
def test_a_spec_agrees_with_its_network(name: str) -> None:
    spec = backbone_spec(name)
    with torch.device("meta"):
        body = spec.body(nn.BatchNorm2d)
        maps = body(torch.empty(1, 3, 256, 320))
    maps = list(maps.values()) if isinstance(maps, dict) else [maps]
    assert tuple(level.shape[1] for level in maps) == spec.channels
    children = [child for child, _ in body.named_children()]
    assert children[0] == spec.stages[0]
    assert [child for child in children if child in spec.stages] == list(spec.stages)
    assert all(PAD_MULTIPLE % stride == 0 for stride in spec.strides)
    known = {field.name for field in fields(FastRCNNConfig)}
    assert known >= {*spec.numbers, *spec.paper, *spec.modern}


def test_every_file_of_the_package_is_registered_and_no_name_occurs_twice() -> None:
    names = [
        spec.name for file in FILES for spec in import_module(f"fastrcnn.backbones.{file}").SPECS
    ]
    assert names == list(BACKBONE_SPECS) == list(BACKBONES)
    folder = CHECKOUT / "fastrcnn" / "backbones"
    with_specs = {p.stem for p in folder.glob("*.py") if "\nSPECS = (" in p.read_text()}
    assert with_specs == set(FILES)


def test_the_numbers_of_a_backbone_are_read_without_torch() -> None:
    code = (
        "import sys; from fastrcnn.config import FastRCNNConfig;"
        " print(FastRCNNConfig.modern(2).scale, {'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.stdout == "800 set()\n", done.stderr


@pytest.mark.parametrize(
    ("name", "advice"),
    [("tiny", "train it with weights 'none'"), ("vgg_m", "give VGG_CNN_M_1024.caffemodel")],
)
def test_a_backbone_without_imagenet_weights_says_what_to_do(name: str, advice: str) -> None:
    with pytest.raises(ValueError, match=f"backbone {name} has no ImageNet weights.*; {advice}"):
        backbone_spec(name).imagenet_weights()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"channels": (8,)},
            "made_up: 2 strides and 1 channels; expected one of each for each map",
        ),
        ({"strides": (), "channels": ()}, "made_up: 0 strides and 0 channels"),
        ({"fpn_channels": None}, r"made_up: maps of \(8, 16\) channels; .* or fpn_channels"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(changes: dict[str, object], reason: str) -> None:
    numbers = {"name": "made_up", "body": two_maps, "stages": ("0",)}
    numbers |= {"strides": (4, 8), "channels": (8, 16), "fpn_channels": 12}
    with pytest.raises(ValueError, match=reason):
        BackboneSpec(**(numbers | changes))  # type: ignore[arg-type]


def test_an_unknown_name_is_refused_with_the_known_names() -> None:
    with pytest.raises(KeyError, match="backbone vgg17: expected one of caffenet, vgg_m"):
        Backbone("vgg17")


def test_levels_stop_at_the_last_map_and_refuse_unknown_children() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1))
    x = torch.rand(1, 3, 2, 2)
    maps: dict[str, Tensor] = Levels(net, ("1",))(x)
    assert list(maps) == ["1"]
    assert torch.equal(maps["1"], net[0](x).relu())
    assert list(Levels(net, ("0", "1")).state_dict()) == ["0.weight", "0.bias"]
    with pytest.raises(ValueError, match="children 7: expected some of 0, 1, 2"):
        Levels(net, ("7",))


def names_in_code(tree: ast.AST) -> Iterator[ast.Constant]:
    """List the constants that are a backbone's name, except the default of a field called `backbone`."""
    defaults: set[ast.AST | None] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "backbone":
            defaults.add(node.value)
        if isinstance(node, ast.FunctionDef):
            named = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            defaults |= {default for arg, default in named if arg.arg == "backbone"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in BACKBONES and node not in defaults:
            yield node


def test_nothing_outside_the_specs_knows_a_backbones_name() -> None:
    files = [
        path
        for folder in ("fastrcnn", "pipeline", "benchmarks", "jobs", "demo")
        for path in sorted((CHECKOUT / folder).rglob("*.py"))
        if path.parent != CHECKOUT / "fastrcnn" / "backbones"
        and not path.match("benchmarks/device_*.py")  # its table is of backbones by name
    ]
    found = [
        f"{path.relative_to(CHECKOUT)}:{node.lineno} {node.value}"
        for path in files
        for node in names_in_code(ast.parse(path.read_text()))
    ]
    assert len(files) > 100
    assert found == []
    assert [n.lineno for n in names_in_code(ast.parse('a = 1\nif name == "tiny": pass'))] == [2]
