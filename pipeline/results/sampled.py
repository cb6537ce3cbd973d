"""Reads and writes sample.parquet: the drawn images, and how they were drawn."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.counting import Design
from pipeline.errors import UserError, one_line
from pipeline.schema import SAMPLE, NewerFormatError, check_version, encode_parquet
from pipeline.storage.chains import unpacked

SAMPLE_VERSION = 1
"""Format of sample.parquet."""
NAME = "sample.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The strata that were drawn from, in the state of that day. Lists have one entry a stratum."""

    root: str
    """The folder of all images; prefixes lie below it."""
    by: int
    """Depth of the prefixes."""
    classes: tuple[str, ...]
    """The K counted classes."""
    prefixes: tuple[str, ...]
    images: tuple[int, ...]
    """Images with status ok."""
    others: tuple[int, ...]
    """Images with another status."""
    draws: tuple[int, ...]
    expected: tuple[tuple[float, ...], ...]
    """Sums of the scores by class."""
    floors: tuple[tuple[float, ...], ...]
    masses: tuple[tuple[float, ...], ...]
    """As in `Design`."""

    @property
    def design(self) -> Design:
        return Design(floors=np.array(self.floors), masses=np.array(self.masses))

    def prefix_of(self, uri: str, depth: int) -> str:
        """Return the prefix of an image, or of a deeper prefix, `depth` folders below the root."""
        folders = unpacked(uri).removeprefix(self.root).split("/")[:-1][:depth]
        return self.root + "".join(f"{folder}/" for folder in folders)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One round of draws."""

    uri: str
    run_id: str
    plans: frozenset[str]
    """The hashes of the generations of the plan."""
    seed: int
    frame: Frame
    rows: pa.Table
    """SAMPLE, by draw."""

    @property
    def strata(self) -> npt.NDArray[np.int64]:
        """The number (n,) of the stratum of each draw."""
        number_of = {prefix: number for number, prefix in enumerate(self.frame.prefixes)}
        return np.array([number_of[name] for name in self.rows["stratum"].to_pylist()])

    def within(self) -> npt.NDArray[np.float64]:
        """Return the probability (n,) of each draw among the draws of its stratum."""
        shares = np.array(self.frame.draws) / self.rows.num_rows
        within: npt.NDArray[np.float64] = self.rows["probability"].to_numpy() / shares[self.strata]
        return within


def sample_uri(uri: str) -> str:
    """Return the URI of sample.parquet for a folder or the file itself."""
    return uri if uri.endswith(".parquet") else storage.join(uri, NAME)


def encode_sample(sample: Sample) -> bytes:
    """Return the bytes of sample.parquet."""
    metadata: Mapping[str, str] = {
        "format_version": str(SAMPLE_VERSION),
        "run_id": sample.run_id,
        "plan_sha256": ",".join(sorted(sample.plans)),
        "seed": str(sample.seed),
        "frame": json.dumps(asdict(sample.frame), ensure_ascii=False),
    }
    return encode_parquet(
        sample.rows.cast(SAMPLE), metadata={k.encode(): v.encode() for k, v in metadata.items()}
    )


def read_sample(uri: str) -> Sample:
    """Read a sample.

    Args:
        uri: the --output of `jobs/sample.py`, or the file in it.

    Raises:
        UserError: there is no such file, or it is no sample or damaged.
    """
    place = sample_uri(uri)
    with storage.driver_errors(place):
        data = storage.read_bytes(place)
    try:
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
        metadata: dict[bytes, bytes] = table.schema.metadata or {}
        check_version(int(metadata[b"format_version"]), SAMPLE_VERSION)
        described: dict[str, Any] = json.loads(metadata[b"frame"])
        for name in ("classes", "prefixes", "images", "others", "draws"):
            described[name] = tuple(described[name])
        for name in ("expected", "floors", "masses"):
            described[name] = tuple(tuple(row) for row in described[name])
        sample = Sample(
            uri=place,
            run_id=metadata[b"run_id"].decode(),
            plans=frozenset(metadata[b"plan_sha256"].decode().split(",")) - {""},
            seed=int(metadata[b"seed"]),
            frame=Frame(**described),
            rows=table.select(SAMPLE.names).cast(SAMPLE).sort_by("draw"),
        )
    except NewerFormatError as error:
        raise UserError(place, str(error), "Install the newer version.") from error
    except (pa.ArrowException, KeyError, ValueError, TypeError, OSError) as error:
        raise UserError(
            f"--sample {uri}",
            f"is not a sample ({one_line(error)})",
            "Give the --output of jobs/sample.py.",
        ) from error
    _check_draws(sample)
    return sample


def _check_draws(sample: Sample) -> None:
    """Raise UserError if rows were taken out or added: a part of a sample is not a random sample."""
    frame = sample.frame
    counted = Counter(sample.rows["stratum"].to_pylist())
    if counted != Counter(dict(zip(frame.prefixes, frame.draws, strict=True))):
        raise UserError(
            sample.uri,
            f"has {sample.rows.num_rows} draws, expected the {sum(frame.draws)} that were drawn",
            "Restore the file that jobs/sample.py wrote. A sample cannot be shortened afterwards.",
        )
