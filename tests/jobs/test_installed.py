"""Tests of the wheel, installed in a new environment, on a running cluster without a checkout."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from demo import servers
from tests.conftest import save_tiny_checkpoint

CHECKOUT = Path(__file__).resolve().parents[2]

PACKAGES = ("fastrcnn", "pipeline")

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]


@dataclass(frozen=True, slots=True)
class Installed:
    """A virtual environment with the package."""

    bin: Path
    packages: Path

    def environment(self, **more: str) -> dict[str, str]:
        path = os.pathsep.join((str(self.bin), os.environ["PATH"]))
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return kept | {"PATH": path} | more


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Make a new environment. Dependencies come from the site-packages of the current environment."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    run([*build, "--directory", folder], cwd=CHECKOUT)
    run([sys.executable, "-m", "venv", folder / "venv"], cwd=folder)
    python = folder / "venv" / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run([python, "-c", code], cwd=folder).strip())
    # This .pth file adds the folder to the path, but does not read the .pth files in it, which name the
    # checkout.
    (packages / "shared.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (wheel,) = folder.glob("*.whl")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index"]
    run([*pip, "--ignore-installed", wheel], cwd=folder)
    # The `ray` of the current environment would start the cluster with the installed checkout.
    ray = python.parent / "ray"
    ray.write_text(f"#!{python}\nfrom ray.scripts.scripts import main\n\nmain()\n")
    ray.chmod(0o755)
    return Installed(python.parent, packages)


def run(command: list[object], cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def address(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a cluster with the environment's `ray start`, outside the checkout; give the address of its
    GCS."""
    logs = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(logs)
        patch.setenv("PATH", installed.environment()["PATH"])
        patch.delenv("PYTHONPATH", raising=False)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        with servers.ray_cluster(logs):
            yield gcs_address(logs)


def gcs_address(logs: Path) -> str:
    """Read the address that `ray start` prints. The head lives a moment before it prints it.

    If the first head ended too early, the second one writes another log.
    """
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        log = max(logs.glob("ray*.log"), key=lambda path: path.stat().st_mtime)
        if printed := re.findall(r"--address='([\d.]+:\d+)'", log.read_text()):
            return str(printed[0])
        time.sleep(0.2)
    raise TimeoutError(log.read_text())


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder outside the checkout, with two images and a detector."""
    save_tiny_checkpoint(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.effect_noise((60, 40), 40).convert("RGB").save(tmp_path / "photos" / name)
    return tmp_path


def score(
    installed: Installed, folder: Path, address: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    places = "--images photos --checkpoint model --output out".split()
    return subprocess.run(
        [str(installed.bin / "fastrcnn-ray"), "score", *places],
        cwd=folder,
        env=installed.environment(RAY_ADDRESS=address, OMP_NUM_THREADS="1", **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_environment_imports_the_installed_package(
    installed: Installed, tmp_path: Path
) -> None:
    code = "import pipeline; print(pipeline.__file__)"
    command = [installed.bin / "python", "-c", code]
    where = Path(run(command, tmp_path, PYTHONPATH="").strip())
    assert where == installed.packages / "pipeline" / "__init__.py"


def test_the_installed_command_scores_on_a_cluster_that_has_the_package(
    installed: Installed, address: str, elsewhere: Path
) -> None:
    done = score(installed, elsewhere, address)
    assert done.returncode == 0, done.stdout
    (shard,) = (elsewhere / "out" / "scored").glob("*/*.parquet")
    rows = pq.read_table(shard).to_pylist()
    assert [(Path(row["image_uri"]).name, row["status"]) for row in rows] == [
        ("a.jpg", "ok"),
        ("b.jpg", "ok"),
    ]


def test_a_node_with_another_version_is_refused(
    installed: Installed, address: str, elsewhere: Path
) -> None:
    """The command has an unpacked copy of version 0.0.9; the node of the cluster has 0.1.0."""
    for name in PACKAGES:
        shutil.copytree(installed.packages / name, elsewhere / "older" / name)
    source = elsewhere / "older" / "fastrcnn" / "__init__.py"
    source.write_text(source.read_text().replace('"0.1.0"', '"0.0.9"'))
    done = score(installed, elsewhere, address, PYTHONPATH=str(elsewhere / "older"))
    assert done.returncode == 2, done.stdout
    line = done.stdout.splitlines()[-1]
    assert re.match(
        r"error: the node [\d.]+ of the Ray cluster: has fastrcnn-ray 0\.1\.0,"
        r" but this machine has 0\.0\.9\.",
        line,
    )
    assert not (elsewhere / "out" / "scored").exists()


def test_a_node_without_the_package_is_refused(
    installed: Installed, address: str, elsewhere: Path
) -> None:
    """The package is removed from the node; the command has a copy."""
    (elsewhere / "copy").mkdir()
    for name in PACKAGES:
        shutil.move(installed.packages / name, elsewhere / "copy" / name)
    try:
        done = score(installed, elsewhere, address, PYTHONPATH=str(elsewhere / "copy"))
    finally:
        for name in PACKAGES:
            shutil.move(elsewhere / "copy" / name, installed.packages / name)
    assert done.returncode == 2, done.stdout
    assert "has no fastrcnn-ray, but this machine has 0.1.0." in done.stdout.splitlines()[-1]
