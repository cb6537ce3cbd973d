"""python -m tests.golden.make FOLDER: write what this version of the program writes, for later ones to read.

Runs the jobs on a bucket of a local S3 server and keeps all of its objects in FOLDER/bucket, and in
FOLDER/golden.json what the version gave them as values: run ids, names of caches, rows, losses.

A folder is made once, by the code of its day (2026-11-29: commit dbe21ba), and never changes. A later format
gets a folder of its own beside it.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow.parquet as pq
import torch
from moto.server import ThreadedMotoServer
from PIL import Image

CHECKOUT = Path(__file__).resolve().parents[2]
BUCKET = "s3://golden"
TRAIN = (
    f"--backbone tiny --weights {BUCKET}/start --max-proposals 60 --scale 64 --fc-dim 4"
    " --rois-per-image 16 --batch-size 2 --iterations 40 --validate-every 8"
).split()
SET = ["--set", "pool_size=3", "frozen_stages=5"]
KINDS = {
    "paper": ["--preset", "paper", "--proposals", "selective_search", *SET, "scale=64"],
    "modern": ["--proposals", "grid", *SET, "class_agnostic=true", "dropout=0.1"],
    "rpn": ["--proposals", "rpn", *SET, "rpn_max_proposals_test=20", "momentum=0.8"],
}
LEFT_OUT = ("tensorboard/", "validation/", "curves.png")
"""Parts of names of objects that are not kept: no later version reads them."""
RUNS: dict[str, list[str]] = {
    "plain": [],
    "float32": ["--precision", "float32", "--score-threshold", "0.2"],
}
PLACES = {
    "paper": "trained/paper/checkpoint",
    "modern": "trained/modern/checkpoint",
    "rpn": "trained/rpn/checkpoint",
    "compressed": "checkpoints/compressed",
    "svm": "checkpoints/svm",
}
"""A checkpoint of each kind."""
CACHES: dict[str, dict[str, Any]] = {
    "default": {},
    "small": {"mode": "small", "seed": 7},
    "exact": {"mode": "exact", "max_boxes": 1000, "min_size": 12},
    "opencv": {"name": "opencv", "mode": "quality"},
    "grid": {"name": "grid", "max_boxes": 300},
    "shapes": {"name": "grid", "shapes": ((0.25, 0.5), (0.5, 0.5))},
    "rpn": {"name": "rpn"},
}


def main(folder: Path) -> None:
    """Make `folder`, which must not be there yet."""
    folder.mkdir(parents=True)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "RAY_memory_monitor_refresh_ms": "0",
        "OMP_NUM_THREADS": "1",
    }
    client = boto3.client("s3")
    client.create_bucket(Bucket="golden")
    try:
        _fill(client)
        _start()
        losses = {kind: _train(kind, f"trained/{kind}") for kind in KINDS}
        _thin_out("trained/rpn/checkpoint")
        _interrupt(client)
        _compress_and_svm(client)
        run_ids = _score(client)
        _job("compact", "--scored", f"{BUCKET}/out", "--output", f"{BUCKET}/out")
        objects = _objects(client)
    finally:
        server.stop()
    for name, data in objects.items():
        path = folder / "bucket" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    boxes = _boxes(folder)
    for path in folder.rglob("*.safetensors"):  # most weights are 0: a tenth of the size
        path.with_suffix(".safetensors.xz").write_bytes(lzma.compress(path.read_bytes()))
        path.unlink()
    golden = {
        "run_ids": run_ids,
        "caches": _cache_names(),
        "rows": {name: _rows(objects, run_id) for name, run_id in run_ids.items()},
        "boxes": boxes,
        "losses": losses,
    }
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


def _fill(client: Any) -> None:
    """`labelled/`: a VOC folder of drawn scenes. `in/`: small images, one broken, one a PNG."""
    from pipeline import storage
    from pipeline.draw_scenes import draw_split

    folder = Path("golden-labelled")
    draw_split(folder, "train", range(6), seed=0, size=(64, 80))
    draw_split(folder, "val", range(6, 8), seed=0, size=(64, 80))
    storage.upload_folder(folder, f"{BUCKET}/labelled")
    shutil.rmtree(folder)
    for number in range(9):
        _put_image(client, f"in/{number:02d}.jpg", number)
    client.put_object(Bucket="golden", Key="in/broken.jpg", Body=b"\xff\xd8 no image")
    _put_image(client, "in/drawn.png", 9)


def _put_image(client: Any, key: str, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), np.uint8)
    image = Image.fromarray(pixels).resize((40 + 4 * seed, 48), Image.Resampling.NEAREST)
    data = io.BytesIO()
    image.save(data, "PNG" if key.endswith("png") else "JPEG", quality=80)
    client.put_object(Bucket="golden", Key=key, Body=data.getvalue())


def _command(name: str, *flags: str) -> list[str]:
    return [sys.executable, str(CHECKOUT / "jobs" / f"{name}.py"), *flags]


def _job(name: str, *flags: str) -> None:
    subprocess.run(_command(name, *flags), check=True)


def _train(kind: str, output: str) -> list[float]:
    """Losses of every step of an undisturbed training."""
    _job("train", *_train_flags(kind, output))
    from pipeline import storage

    curves = json.loads(storage.read_bytes(f"{BUCKET}/{output}/metrics.json"))
    return [row["loss"] for row in curves["steps"]]


def _train_flags(kind: str, output: str) -> Sequence[str]:
    data = ["--data", f"{BUCKET}/labelled", "--output", f"{BUCKET}/{output}"]
    return [*data, *TRAIN, *KINDS[kind]]


def _start() -> None:
    """`start/`: what the trainings start from; the backbone keeps its weights, few of which are not 0."""
    from fastrcnn.checkpoint import save_checkpoint
    from fastrcnn.config import FastRCNNConfig, ProposalConfig
    from fastrcnn.model import FastRCNN
    from pipeline.storage import checkpoints

    torch.manual_seed(0)
    config = FastRCNNConfig(num_classes=1, backbone="tiny", fc_dim=4, pool_size=3)
    folder = Path("golden-start")
    save_checkpoint(
        folder, FastRCNN(config), classes=["x"], proposals=ProposalConfig(), training={}
    )
    checkpoints.put(folder, f"{BUCKET}/start")
    shutil.rmtree(folder)
    _thin_out("start")


def _thin_out(place: str) -> None:
    """Write a checkpoint anew, its large convolutions with few weights that are not 0: it packs well."""
    from fastrcnn.checkpoint import save_checkpoint
    from pipeline.storage import checkpoints

    given = checkpoints.load(f"{BUCKET}/{place}")
    for parameter in given.model.parameters():
        if parameter.numel() > 20_000:
            least = parameter.abs().flatten().kthvalue(parameter.numel() - 500).values
            parameter.data = torch.where(parameter.abs() > least, (parameter * 64).round() / 16, 0)
    folder = Path("golden-thin")
    save_checkpoint(
        folder,
        given.model,
        classes=given.classes,
        proposals=given.proposals,
        training=given.config["training"],
    )
    checkpoints.put(folder, f"{BUCKET}/{place}")
    shutil.rmtree(folder)


def _interrupt(client: Any) -> None:
    """`interrupted/`: the training `modern`, its driver killed when its first checkpoint was noted."""
    process = subprocess.Popen(_command("train", *_train_flags("modern", "interrupted")))
    while process.poll() is None:
        keys = [
            entry["Key"]
            for entry in client.list_objects_v2(Bucket="golden", Prefix="interrupted/train/").get(
                "Contents", []
            )
        ]
        if any(key.endswith("checkpoint_manager_snapshot.json") for key in keys):
            process.kill()
        time.sleep(0.02)
    process.wait()
    listed = client.list_objects_v2(Bucket="golden", Prefix="interrupted/")["Contents"]
    assert not any(entry["Key"].endswith("result.json") for entry in listed), "it ended first"


def _compress_and_svm(client: Any) -> None:
    """`checkpoints/compressed`, by the job, and `checkpoints/svm`, as the ablation keeps one."""
    from dataclasses import replace

    from fastrcnn.checkpoint import save_checkpoint
    from fastrcnn.model import FastRCNN
    from pipeline.storage import checkpoints

    _job(
        *("compress", "--checkpoint", f"{BUCKET}/trained/paper"),
        *("--output", f"{BUCKET}/checkpoints/compressed", "--fc6-rank", "4", "--fc7-rank", "2"),
    )
    given = checkpoints.load(checkpoints.find_checkpoint(f"{BUCKET}/trained/paper"))
    torch.manual_seed(0)
    config = replace(given.model.config, classifier="svm", score_threshold=-1.05)
    model = FastRCNN(config)
    model.load_state_dict(given.model.state_dict())
    folder = Path("golden-svm")
    save_checkpoint(
        folder,
        model,
        classes=given.classes,
        proposals=given.proposals,
        training=given.config["training"] | {"result": {"note": "margins for scores"}},
    )
    checkpoints.put(folder, f"{BUCKET}/checkpoints/svm")
    shutil.rmtree(folder)


def _score(client: Any) -> dict[str, str]:
    """`out/`: two runs in two generations: an image is new in the second, one has changed, one has gone."""
    common = ["--images", f"{BUCKET}/in", "--output", f"{BUCKET}/out", "--shard-size", "4"]
    common += ["--checkpoint", f"{BUCKET}/trained/modern"]
    for flags in RUNS.values():
        _job("score_bucket", *common, *flags)
    _put_image(client, "in/new.jpg", 10)
    _put_image(client, "in/03.jpg", 11)
    for flags in RUNS.values():
        _job("score_bucket", *common, *flags)
    configs = [
        json.loads(data) for name, data in _objects(client).items() if name.endswith("config.json")
    ]
    told = {entry["config"]["precision"]: entry["run_id"] for entry in configs if "run_id" in entry}
    return {"plain": told["auto"], "float32": told["float32"]}


def _objects(client: Any) -> dict[str, bytes]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="golden")
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    keys = [key for key in keys if not any(part in key for part in LEFT_OUT)]
    keys = [key for key in keys if "trained" not in key or "/train/" not in key]
    return {key: client.get_object(Bucket="golden", Key=key)["Body"].read() for key in keys}


def _rows(objects: dict[str, bytes], run_id: str) -> list[dict[str, Any]]:
    """What `scored/` says of each image, older rows included, without what a clock says."""
    rows = []
    for name in sorted(objects):
        if name.startswith(f"out/scored/{run_id}/"):
            table = pq.read_table(io.BytesIO(objects[name]))
            rows += table.drop_columns(["scored_at", "detections"]).to_pylist()
    return rows


def _boxes(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What each kind of checkpoint finds in two of the images, in float32."""
    from pipeline.detector import Detector

    images = [str(folder / "bucket/in" / name) for name in ("01.jpg", "drawn.png")]
    made = {}
    for kind, place in PLACES.items():
        detector = Detector(folder / "bucket" / place, precision="float32", num_threads=1)
        made[kind] = [found[:5] for found in detector.detect(images)]
    return made


def _cache_names() -> dict[str, str]:
    from fastrcnn.config import ProposalConfig
    from pipeline.proposals import settings_name

    return {key: settings_name(ProposalConfig(**values)) for key, values in CACHES.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
