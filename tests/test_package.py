"""Tests of the public names, and of the files in the wheel."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import fastrcnn
import pipeline
import pipeline.detector

CHECKOUT = Path(__file__).resolve().parents[1]


def test_the_public_names_are_these() -> None:
    assert pipeline.__all__ == ["Detections", "Detector", "__version__"]
    assert fastrcnn.__all__ == [
        "FastRCNN",
        "FastRCNNConfig",
        "ProposalConfig",
        "__version__",
        "detect",
        "load_checkpoint",
        "save_checkpoint",
        "training_loss",
    ]
    for package in (fastrcnn, pipeline):
        for name in package.__all__:
            assert getattr(package, name).__doc__
    assert pipeline.Detector is pipeline.detector.Detector
    assert pipeline.__version__ == fastrcnn.__version__ == "0.1.0"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pipeline' has no attribute 'Detektor'"):
        pipeline.Detektor  # noqa: B018
    with pytest.raises(AttributeError, match="module 'fastrcnn' has no attribute 'detekt'"):
        fastrcnn.detekt  # noqa: B018


def test_importing_the_packages_imports_no_torch_and_no_ray() -> None:
    code = "import sys, fastrcnn, pipeline; print({'torch', 'ray', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.stdout == "set()\n", done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_the_files_that_jobs_need_and_no_others(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = "fastrcnn_ray-0.1.0.dist-info"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "fastrcnn", "pipeline"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    files = {name for name in listed if (CHECKOUT / name).exists()}
    assert {name for name in names if not name.startswith(info)} == files
    assert {Path(name).suffix for name in files} == {
        ".py",
        ".sql",
        ".js",
        ".html",
        ".css",
        ".typed",
    }
    assert {
        "fastrcnn/py.typed",
        "pipeline/py.typed",
        "pipeline/detections.sql",
        "pipeline/results/assets/page.html",
        f"{info}/licenses/LICENSE",
    } <= names


def test_the_wheel_has_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/licenses/LICENSE")]
        licence = archive.read(name).decode()
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/entry_points.txt")]
        entry = archive.read(name).decode()
    assert metadata["Version"] == fastrcnn.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"].split(",") == ["<3.14", ">=3.11"]
    assert "Version 2.0, January 2004" in licence
    assert "fastrcnn-ray = pipeline.runtime.commands:run_package" in entry


def test_the_unpacked_wheel_runs_without_a_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "score", "--help"],
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "unpacked"), "COLUMNS": "80"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python -m pipeline score --images URI --checkpoint URI")
    assert "Images per forward pass. (default: 8)" in done.stdout


def test_the_changelog_has_a_section_for_each_version() -> None:
    text = (CHECKOUT / "CHANGELOG.md").read_text()
    assert text.index("## [Unreleased]") < text.index(f"## [{fastrcnn.__version__}]")


def test_the_version_has_one_source() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "fastrcnn/__init__.py"
