"""The measurements of `benchmarks.device`. Each is a function from the set-up to rows (name, value).

Nothing here imports Ray or storage: the machine may have torch alone.
"""

from __future__ import annotations

import argparse
import copy
import io
import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.device_setup import MODELS, Setup, draw_boxes, draw_noise, jpegs
from benchmarks.mixed_sizes import pass_rows
from benchmarks.roofline import Floor, Peak
from fastrcnn.config import FastRCNNConfig, SolverConfig
from fastrcnn.detection import Detections, detect, postprocess
from fastrcnn.halving import detect_halving
from fastrcnn.loss import Objective, Target
from fastrcnn.model import FastRCNN
from fastrcnn.precision import full_float32
from fastrcnn.scoring_form import scoring_form
from fastrcnn.solver import build_optimizer
from fastrcnn.svd import compress

Rows = list[tuple[str, str]]


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Run the step that the flags name."""
    torch.backends.cudnn.benchmark = False  # as the jobs leave it
    cuda = torch.cuda.is_available()
    setup = Setup(
        device=torch.device("cuda" if cuda else "cpu"),
        small=flags.dry_run,
        data=flags.data,
        weights=flags.weights,
    )
    steps: dict[str, Callable[[Setup], Rows]] = {
        one.__name__: one
        for one in (
            detector, training, waits, compiled, precision, independence, svd, graphs, suppression,
            memory, feed, passes,
        )
    }  # fmt: skip
    name = torch.cuda.get_device_name() if cuda else "CPU"
    return {"rows": steps[flags.step](setup), "device": name, "torch": torch.__version__}


def detector(setup: Setup) -> Rows:
    """Images a second of `detect`, 8 images a call, the pixels on the device."""
    rows: Rows = []
    peaks = {dtype: _peak(setup, dtype) for dtype in setup.dtypes}
    rows += [
        (f"peak of a product, {_short(d)}", f"{p / 1e12:.1f} TFLOP/s") for d, p in peaks.items()
    ]
    pixels = [image.to(setup.device) for image in setup.images(8)]
    for backbone in MODELS:
        rpn = backbone != "vgg16"
        proposals = None if rpn else [draw_boxes(1000, seed) for seed in range(8)]
        plain = setup.model(backbone, rpn=rpn)
        flops = _flops(plain, pixels, proposals)
        for dtype in peaks:
            model = scoring_form(copy.deepcopy(plain), bfloat16=dtype == torch.bfloat16)
            with nullcontext() if dtype == torch.bfloat16 else full_float32():
                setup.peak_memory()
                seconds = setup.seconds(partial(detect, model, pixels, proposals))
            name = f"{backbone} {_short(dtype)}"
            share = flops / seconds / peaks[dtype]
            rows.append((f"{name}, images/s", f"{8 / seconds:.1f}"))
            rows.append((f"{name}, share of the peak", f"{share:.1%}"))
            rows.append((f"{name}, memory", f"{setup.peak_memory():.2f} GB"))
    return rows


def compiled(setup: Setup) -> Rows:
    """The same with the backbone compiled, as --compile does, in bfloat16."""
    if setup.small:
        return [("torch.compile", "not in a dry run")]
    rows: Rows = []
    pixels = [image.to(setup.device) for image in setup.images(8)]
    for backbone in ("mobilenet_v2", "resnet50_fpn"):
        model = scoring_form(setup.model(backbone, rpn=True), bfloat16=True)
        model.backbone.compile(dynamic=True)
        started = time.perf_counter()
        detect(model, pixels)
        setup.wait()
        rows.append((f"{backbone}, first call", f"{time.perf_counter() - started:.1f} s"))
        seconds = setup.seconds(partial(detect, model, pixels))
        rows.append((f"{backbone}, images/s", f"{8 / seconds:.1f}"))
    return rows


def training(setup: Setup) -> Rows:
    """Images a second of forward, backward and update, with an RPN, 8 images a step from the host."""
    number = 2 if setup.small else 8
    rows: Rows = []
    pixels = setup.images(number)
    for backbone in ("mobilenet_v2", "resnet50_fpn"):
        for mixed in (True, False):
            step = _training_step(setup, backbone, pixels, mixed)
            setup.peak_memory()
            seconds = setup.seconds(step, calls=8)
            name = f"{backbone} {'bfloat16' if mixed else 'float32'}"
            rows.append((f"{name}, images/s", f"{number / seconds:.1f}"))
            rows.append((f"{name}, memory", f"{setup.peak_memory():.2f} GB"))
    return rows


def waits(setup: Setup) -> Rows:
    """How often the host waits in `detect` and in a step; on a CPU as the pretended GPU of the tests says."""
    rows: Rows = []
    for backbone in ("mobilenet_v2", "resnet50_fpn"):
        for number in (2, 8):
            model = setup.model(backbone, rpn=True)
            images = setup.images(number, (96, 128) if setup.small else (480, 640))
            found = _count_waits(setup, model, images)
            rows.append((f"{backbone}, detect, {number} images", str(found)))
    if setup.device.type == "cuda":
        for number in (2, 8):
            step = _training_step(setup, "mobilenet_v2", setup.images(number), True)
            step()
            rows.append((f"mobilenet_v2, training step, {number} images", str(_reported(step))))
    return rows


def precision(setup: Setup) -> Rows:
    """The largest error of maps and logits, relative to float64 on the CPU, and what TF32 saves."""
    model, rows = setup.model("mobilenet_v2"), []
    size = 64 if setup.small else 480
    images, rois = torch.randn(1, 3, size, size), torch.tensor([[0.0, 8, 8, 48, 56]])
    exact = copy.deepcopy(model).cpu().double()
    with torch.inference_mode():
        expected = [exact.features(images.double())[0], exact(images.double(), rois)[0]]
        for name, context in (("TF32 allowed", nullcontext), ("float32", full_float32)):
            moved = images.to(setup.device), rois.to(setup.device)
            with context():
                found = [model.features(moved[0])[0], model(*moved)[0]]
                seconds = setup.seconds(partial(model.features, moved[0]))
            for part, a, b in zip(("maps", "logits"), found, expected, strict=True):
                error = float((a.cpu().double() - b).abs().max() / b.abs().max())
                rows.append((f"{name}, error of {part}", f"{error:.1e}"))
            rows.append((f"{name}, maps of one image", f"{1e3 * seconds:.2f} ms"))
    return rows


def independence(setup: Setup) -> Rows:
    """Images of many sizes, each alone and all together."""
    generator, rows = np.random.default_rng(0), list[tuple[str, str]]()
    sides = generator.integers(200, 700, (8 if setup.small else 24, 2))
    images = [draw_noise(int(h), int(w), generator) for h, w in sides.repeat(2, axis=0)]
    for bfloat16 in (dtype == torch.bfloat16 for dtype in setup.dtypes):
        plain = setup.model("mobilenet_v2", rpn=True, score_threshold=0.0)
        model = scoring_form(plain, bfloat16=bfloat16)
        with nullcontext() if bfloat16 else full_float32():
            together = detect(model, images)
            alone = [detect(model, [image])[0] for image in images]
        pairs = list(zip(together, alone, strict=True))
        name = "bfloat16" if bfloat16 else "float32"
        rows.append((f"{name}, largest difference of a score", f"{_score_gap(pairs):.1e}"))
        other = sum(len(a.scores) != len(b.scores) for a, b in pairs)
        rows.append((f"{name}, images with another number of boxes", f"{other} of {len(pairs)}"))
    return rows


def svd(setup: Setup) -> Rows:
    """VGG16 on one image with 2,000 proposals: the paper has .32 s and .22 s on a K40 (section 4.4)."""
    rows: Rows = []
    (image,), boxes = setup.images(1), [draw_boxes(200 if setup.small else 2000, 0)]
    numbers: dict[str, Any] = {"proposal_nms": None, "score_threshold": 0.9}
    plain = setup.model("vgg16", **numbers)
    ranks = (8, 4) if setup.small else (1024, 256)
    for name, model in (("whole", plain), ("truncated SVD", compress(plain, *ranks))):
        model = scoring_form(model.to(setup.device).eval(), bfloat16=False)
        pixels = image.to(setup.device)
        with full_float32():
            seconds = setup.seconds(partial(detect, model, [pixels], boxes))
        rows.append((f"{name}, an image in float32", f"{seconds:.4f} s"))
    return rows


def graphs(setup: Setup) -> Rows:
    """The head on pooled features, launched kernel by kernel and as one CUDA graph."""
    rows: Rows = []
    model = scoring_form(setup.model("mobilenet_v2"), bfloat16=None)
    channels, side = model.backbone.out_channels, model.config.pool_size
    for number in (8, 16) if setup.small else (300, 1000, 4000):
        pooled = torch.randn(number, channels, side, side, device=setup.device)
        with torch.inference_mode():
            plain = setup.seconds(partial(model.head, pooled))
            rows.append((f"{number} RoIs, kernel by kernel", f"{1e3 * plain:.3f} ms"))
            if setup.device.type == "cuda":
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    model.head(pooled)
                rows.append(
                    (f"{number} RoIs, graph", f"{1e3 * setup.seconds(graph.replay):.3f} ms")
                )
    return rows


def suppression(setup: Setup) -> Rows:
    """`postprocess` of 8 images, 80 classes, 400 proposals each."""
    classes, number, proposals = 80, *((2, 40) if setup.small else (8, 400))
    config = FastRCNNConfig.modern(classes, backbone="tiny")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(number * proposals, classes + 1, generator=generator).to(setup.device)
    deltas = torch.zeros(number * proposals, 4 * (classes + 1), device=setup.device)
    boxes = [
        torch.from_numpy(draw_boxes(proposals, seed)).to(setup.device) for seed in range(number)
    ]
    sizes = [(480, 640)] * number
    rows = []
    for threshold in (0.0, 0.05):
        work = partial(postprocess, boxes, logits, deltas, sizes, config, threshold)
        seconds = setup.seconds(work)
        rows.append((f"score threshold {threshold:g}", f"{1e3 * seconds:.2f} ms"))
    return rows


def memory(setup: Setup) -> Rows:
    """Large images on a GPU with little room, and the memory held over many batches."""
    if setup.device.type != "cuda":
        return [("out of memory", "needs a GPU")]
    model = scoring_form(setup.model("resnet50_fpn", rpn=True, scale=1600, max_size=2400))
    calls: list[int] = []

    def network(pixels: Sequence[Any], proposals: Sequence[Any] | None) -> list[Detections]:
        calls.append(len(pixels))
        return detect(model, pixels, proposals)

    held = torch.cuda.memory_allocated()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((held + 4e9) / total)
    found = detect_halving(network, setup.images(16, (1600, 2400)), None)
    failed = sum(isinstance(one, str) for one in found)
    rows = [("images of each call", " ".join(map(str, calls)))]
    rows.append(("images that did not fit alone", f"{failed} of {len(found)}"))
    torch.cuda.set_per_process_memory_fraction(1.0)
    pixels, after = setup.images(4), list[float]()
    for _ in range(50):
        detect(model, pixels)
        after.append(torch.cuda.memory_allocated() / 1e6)
    rows.append(("memory held after 2 and after 50 batches", f"{after[1]:.0f}, {after[-1]:.0f} MB"))
    return rows


def feed(setup: Setup) -> Rows:
    """Images a second that all cores decode, in threads."""
    files = jpegs(setup.data)
    encoded = [path.read_bytes() for path in files[:64]] or [_encoded(i) for i in setup.images(8)]
    work = (encoded * 64)[: 16 if setup.small else 600]
    rows, threads = [("cores", str(os.cpu_count()))], os.cpu_count() or 1
    for name, decode in _decoders().items():
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(decode, work[:threads]))
            started = time.perf_counter()
            list(pool.map(decode, work))
            rows.append((f"{name}, images/s", f"{len(work) / (time.perf_counter() - started):.0f}"))
    return rows


def passes(setup: Setup) -> Rows:
    """Passes and padded pixels of images of mixed sizes: no device is needed."""
    return pass_rows(files=jpegs(setup.data))


def _decoders() -> dict[str, Callable[[bytes], Any]]:
    decoders: dict[str, Callable[[bytes], Any]] = {
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    }
    try:
        from pipeline.images import decode
    except ImportError:  # it needs simplejpeg, which a bare machine lacks
        return decoders
    return {"pipeline.images": lambda data: decode(data).pixels, **decoders}


def _training_step(
    setup: Setup, backbone: str, images: Sequence[Tensor], mixed: bool
) -> Callable[[], float]:
    """Give a function that does what `pipeline.training.step` does on one worker."""
    model = setup.model(backbone, rpn=True).train()
    solver = SolverConfig.modern(batch_size=len(images))
    optimizer, objective, steps = build_optimizer(model, solver), Objective(model), count()
    boxes = [torch.from_numpy(draw_boxes(6, seed)) for seed in range(len(images))]
    labels = torch.tensor([1, 2, 3, 1, 2, 3])
    targets = [Target(torch.zeros(0, 4), own, labels) for own in boxes]
    cast = torch.autocast(setup.device.type, dtype=torch.bfloat16)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with nullcontext() if mixed else full_float32():
            with cast if mixed else nullcontext():
                first = next(steps) * len(images)
                losses = objective(images, targets, range(first, first + len(images)))
            losses.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        return float(losses.total)

    return step


def _count_waits(setup: Setup, model: FastRCNN, images: Sequence[Tensor]) -> int:
    if setup.device.type == "cuda":
        moved = [image.to(setup.device) for image in images]
        detect(model, moved)
        return _reported(lambda: detect(model, moved))
    from tests.pretended_gpu import on_gpu, pretended_gpu

    with pretended_gpu() as gpu:
        on_gpu(model)
        moved = [on_gpu(image) for image in images]
        detect(model, moved[:1])
        gpu.clear()
        detect(model, moved)
    return gpu.num_waits


def _reported(work: Callable[[], Any]) -> int:
    """Count the waits that CUDA reports."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in caught)


def _peak(setup: Setup, dtype: torch.dtype) -> float:
    """Measure the operations a second of a large matrix product."""
    side = 256 if setup.small else 8192
    square = torch.rand(side, side, device=setup.device, dtype=dtype)
    with full_float32():
        return 2 * side**3 / setup.seconds(lambda: square @ square)


def _flops(model: FastRCNN, pixels: Sequence[Tensor], proposals: Any) -> float:
    counter = Floor(Peak(flops=1.0, bandwidth=1e30))
    with counter:
        detect(model, pixels, proposals)
    return counter.flops


def _score_gap(pairs: Sequence[tuple[Detections, Detections]]) -> float:
    few = [(a.scores, b.scores, min(len(a.scores), len(b.scores))) for a, b in pairs]
    return max((float((a[:n] - b[:n]).abs().max()) for a, b, n in few if n), default=0.0)


def _encoded(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
