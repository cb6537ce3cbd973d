"""What `benchmarks.device` measures on: models, images and boxes, and the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fastrcnn.config import FastRCNNConfig, RPNConfig
from fastrcnn.model import FastRCNN, load_pretrained
from fastrcnn.precision import multiplies_bfloat16

MODELS: dict[str, dict[str, Any]] = {
    "mobilenet_v2": {"scale": 480, "max_size": 800},
    "resnet50_fpn": {"scale": 800, "max_size": 1333},
    "vgg16": {"scale": 600, "max_size": 1000},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What a step is measured on."""

    device: torch.device
    small: bool
    """Whether the numbers are those of a dry run."""
    data: Path | None
    weights: Path | None

    @property
    def dtypes(self) -> list[torch.dtype]:
        """The types in which the device computes."""
        return [torch.bfloat16] * multiplies_bfloat16(self.device) + [torch.float32]

    def model(self, backbone: str, *, rpn: bool = False, **numbers: Any) -> FastRCNN:
        """Build a detector of three classes on the device. Its heads are random."""
        torch.manual_seed(0)
        size: dict[str, Any] = MODELS[backbone]
        if self.small:
            size = {"scale": 64, "max_size": 96, "fc_dim": 32}
        proposer = RPNConfig(max_proposals_test=300) if rpn else None
        config = FastRCNNConfig.modern(3, backbone=backbone, rpn=proposer, **(size | numbers))
        model = FastRCNN(config)
        if self.weights and backbone == "mobilenet_v2":
            load_pretrained(model, torch.load(self.weights, weights_only=True))
        return model.to(self.device).eval()

    def images(self, number: int, size: tuple[int, int] | None = (480, 640)) -> list[Tensor]:
        """Give `number` images on the host, of one size or as they are."""
        generator = np.random.default_rng(0)
        files = jpegs(self.data)
        images = []
        for index in range(number):
            if files:
                image = Image.open(files[index % len(files)]).convert("RGB")
            else:
                noise = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
                image = Image.fromarray(noise).resize((640, 480), Image.Resampling.BILINEAR)
            if size:
                image = image.resize((size[1], size[0]))
            images.append(torch.from_numpy(np.array(image)))
        return images

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], calls: int = 12) -> float:
        """Give the median time of a call, after three that are not measured."""
        times = []
        for _ in range(2 if self.small else calls + 3):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - started)
        return statistics.median(times[1 if self.small else 3 :])

    def peak_memory(self) -> float:
        """Give the GB that torch has held at once since the last call."""
        if self.device.type != "cuda":
            return 0.0
        held = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
        return held


def jpegs(folder: Path | None) -> list[Path]:
    """List the JPEGs in a folder and its subfolders."""
    if folder is None:
        return []
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))


def draw_boxes(number: int, seed: int) -> npt.NDArray[np.float32]:
    """Draw boxes (number, 4) in an image of 480 x 640 pixels."""
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, (560, 400), (number, 2))
    sides = generator.uniform(16, 80, (number, 2))
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def draw_noise(height: int, width: int, generator: np.random.Generator) -> Tensor:
    """Draw a smooth picture (height, width, 3) uint8."""
    coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return torch.from_numpy(np.array(Image.fromarray(coarse).resize((width, height))))
