"""Archives that other programs made are read as those programs unpack them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.storage.archives.listed import list_archive
from pipeline.storage.chains import member_name, split_chain
from tests.pipeline.storage.archives.hostile import BODY

LONG = f"{'long' * 20}/{'name' * 40}.jpg"
NAMES = ["a.jpg", "d/ü 100%.jpg", "d/a::b:.jpg"]
PYTHON = sys.executable
WRITERS = {
    **{
        f"tar {kind}": (["tar", f"--format={kind}", "-cf"], ".tar", kind not in ("v7", "ustar"))
        for kind in ("gnu", "oldgnu", "posix", "ustar", "v7")
    },
    **{
        f"bsdtar {kind}": (["bsdtar", f"--format={kind}", "-cf"], ".tar", kind != "ustar")
        for kind in ("pax", "gnutar", "ustar")
    },
    "zip": (["zip", "-qr"], ".zip", True),
    "zip stored": (["zip", "-qr0"], ".zip", True),
    "python zipfile": ([PYTHON, "-m", "zipfile", "-c"], ".zip", True),
    "python tarfile": ([PYTHON, "-m", "tarfile", "-c"], ".tar", True),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_an_archive_of_another_program_is_read(writer: str, tmp_path: Path) -> None:
    command, suffix, long_names = WRITERS[writer]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    folder = tmp_path / "in"
    names = [*NAMES, LONG] if long_names else NAMES
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(BODY * (number + 1))
    os.link(folder / "a.jpg", folder / "e.jpg")
    archive = tmp_path / f"x{suffix}"
    tops = sorted(path.name for path in folder.iterdir())
    subprocess.run([*command, archive, *tops], cwd=folder, check=True)
    found = {}
    for uri in list_archive(storage.stat(str(archive))):
        chain = split_chain(uri)
        assert chain is not None
        found[member_name(chain.name).decode()] = storage.read_bytes(uri)
    wanted = {name: BODY * (number + 1) for number, name in enumerate(names)}
    assert found == wanted | {"e.jpg": BODY}
