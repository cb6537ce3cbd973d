"""The Arrow schemas of all tables, in the order of the steps of scoring.

    NAMED        the images that a command names, from a listing, a list or an inventory
    MEMBERS      members of archives that a command names
    LISTED       both, each once
    PLAN         plans/: the planned images, and the shard of each
    TASK         work for the CPU stage: some rows of a shard
    CANDIDATE    output of the CPU stage: encoded bytes and proposals, or the status of a failed image
    RESULT       output of the Detector: the columns of scored/, the shard, and what only the driver reads
    SCORED       scored/: one row for each planned image in a run; one more for each time it is tried again
    DETECTIONS   detections/: one row for each box
    SAMPLE       sample.parquet: the images that a person counts, one row for each draw
    ESTIMATES    estimates.parquet: totals with intervals, by class and prefix

The tables of proposals are PROPOSALS, PROPOSALS_CACHE, PROPOSALS_EXPORT and PROPOSALS_IMPORT.
Those of an evaluation are OPERATING_POINTS, CONFUSION and MATCHES.

The types are explicit, so that a file without boxes has the same types as a file with boxes. List elements
are named `element` and dictionary indices are int32, because Parquet returns them so: a table that is read is
equal to the table that was written.

A table may change in only one way: a new nullable column is added at the end of SCORED, and TABLE_VERSION is
raised. No column is renamed, retyped or dropped. A run keeps the columns that it began with, and readers read
a missing column as null (`read_columns`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

TABLE_VERSION = 2
"""Format of `scored/`. It is in the metadata of every file. Version 2 added `generation` and `num_tiles`."""
PLAN_VERSION = 3
"""Format of `plans/`. Version 2 added retry generations and those made again, version 3 members of archives.
A generation says the lowest version that has all of it, so that older programs read it."""
MADE_AGAIN_VERSION = 2
"""The version of retry generations and those made again, without members of archives."""
DETECTIONS_VERSION = 1
"""Format of `detections/`."""

STATUSES = (
    "ok",
    "missing",
    "changed",
    "denied",
    "unreadable",
    "too_large",
    "undecodable",
    "failed",
)
"""The values of `status`. Only a row with status `ok` has a result; without boxes, it means that the detector
detected nothing."""

COORDINATES = "xyxy, absolute pixels, continuous edges, in the image after its EXIF orientation"

NAMED = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("size_bytes", pa.int64()),
    ]
)
"""Images that a command names. The ETag and the size come from the listing or list; null if it has none."""

IMAGE = NAMED.append(pa.field("shard", pa.int64(), nullable=False))
"""An image with the shard that it belongs to."""

PLACE = (
    pa.field("offset", pa.int64()),
    pa.field("length", pa.int64()),
    pa.field("compression", pa.string()),
    pa.field("problem", pa.string()),
)
"""Where a member of an archive lies. All are null for an object that is an image itself, and in plans of
version 1 and 2. `offset`, `length`: the bytes of the archive to read. `compression`: how they become the
image; null: they are the image. `problem`: ``status: cause`` of a member that cannot be read because of what
it is, or of a damaged archive."""

LISTED = pa.schema([*NAMED, *PLACE])
"""Images that a command names, each once, and where each lies."""

PLAN = pa.schema([*IMAGE, *PLACE])
"""`plans/`: the images to score, and the shard that each belongs to. A part of a plan has the columns `PLACE`
only if it has members of archives."""

MEMBERS = pa.schema(
    [
        *NAMED,
        *PLACE,
        pa.field("position", pa.int64()),
        pa.field("target", pa.string()),
        pa.field("hard", pa.bool_()),
    ]
)
"""Members of archives. `position`: of two members with one name, the one with the higher position counts.
`target`: of a link, the chained URI that it leads to; its place is unknown until then. `hard`: of a link,
whether it is a hard one, which leads to a member before it."""

TASK = pa.schema(
    [
        pa.field("part", pa.string(), nullable=False),
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("first", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
    ]
)
"""A piece of work: `rows` rows of a shard, from row `first` on. `part` is the URI of the part of the plan
that holds the shard."""

CANDIDATE = pa.schema(
    [
        *IMAGE,
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("image", pa.large_binary()),
        pa.field("proposals", pa.large_binary()),
        pa.field("node", pa.string()),
        pa.field("traceback", pa.string()),
    ]
)
"""A planned image after reading. `image`: the encoded bytes, as in the bucket; null if the Detector reads
parts of them (`pipeline.images.regions`). `proposals`: the bytes of a
(P, 4) float32 array in row order, xyxy in the image frame. Both are null unless `status` is `ok`. `proposals`
is also null if the model has an RPN that makes the proposals. `node`: the machine that read the image.
`traceback`: of an exception that nobody foresaw, else null."""

_BOX = [pa.field(name, pa.float32()) for name in ("x_min", "y_min", "x_max", "y_max")]

DETECTION = pa.struct(
    [
        pa.field("label", pa.string()),
        pa.field("label_id", pa.int16()),
        pa.field("score", pa.float32()),
        *_BOX,
    ]
)

SCORED = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("status", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("error", pa.string()),
        pa.field("model_id", pa.string()),
        pa.field("run_id", pa.string()),
        pa.field("scored_at", pa.timestamp("us", tz="UTC")),
        pa.field("num_proposals", pa.int32()),
        pa.field("num_detections", pa.int32()),
        pa.field("detections", pa.list_(pa.field("element", DETECTION))),
        pa.field("generation", pa.int32()),
        pa.field("num_tiles", pa.int32()),
    ]
)
"""`scored/`: one row for each planned image in a run. `detections` is sorted by falling score. `generation`
is the generation of the plan that the row belongs to, null = 1. `num_tiles` is the number of tiles that were
scored besides the whole image, null = none."""

FIRST_COLUMNS = tuple(SCORED.names[: SCORED.get_field_index("detections") + 1])
"""The columns of version 1. A run whose config.json names no columns has these."""

RESULT = pa.schema(
    [
        *(
            field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field
            for field in SCORED
        ),
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("detect_s", pa.float32()),
        pa.field("node", pa.string()),
        pa.field("traceback", pa.string()),
    ]
)
"""A result row before it is written: the columns of scored/, the number of the shard, the seconds that a
Detector was busy with the image, and `node` and `traceback` of CANDIDATE. The status is plain text here,
because blocks from different workers are concatenated before the column is encoded."""

DETECTIONS = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("detection", pa.int16()),
        pa.field("label", pa.string()),
        pa.field("label_id", pa.int16()),
        pa.field("score", pa.float32()),
        *_BOX,
        pa.field("model_id", pa.string()),
    ]
)
"""`detections/`: one row for each box. `detection` is the position of the box in the image's list, from 0."""

SAMPLE = pa.schema(
    [
        pa.field("draw", pa.int64(), nullable=False),
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("probability", pa.float64(), nullable=False),
        pa.field("stratum", pa.string(), nullable=False),
    ]
)
"""`sample.parquet`: images drawn with replacement, so one image may have several rows. `probability`: the
mean share of all draws that the image gets. Over all images it sums to 1, and the mean of count / probability
over the draws estimates the total. `stratum`: the prefix whose draws were fixed beforehand."""

_COUNT = pa.float64()
ESTIMATES = pa.schema(
    [
        pa.field("scope", pa.string(), nullable=False),
        pa.field("prefix", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("total", _COUNT),
        pa.field("low", _COUNT),
        pa.field("high", _COUNT),
        pa.field("standard_error", _COUNT),
        pa.field("bootstrap_low", _COUNT),
        pa.field("bootstrap_high", _COUNT),
        pa.field("expected", _COUNT),
        pa.field("draws", pa.int64(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),
        pa.field("uncovered", _COUNT, nullable=False),
        pa.field("more_draws", pa.int64()),
    ]
)
"""`estimates.parquet`: one row for each region and class. `scope`: `total` for all images, `prefix` for those
below `prefix`. `label`: null for all classes together. `total`: null if too few draws lie in the region:
unknown, not 0. `low`, `high`: 95% interval. `expected`: the sum of the detector's scores. `images`: those
with status ok, which the total is for; `uncovered`: the share of the others. `more_draws`: further draws
until the interval is as narrow as --width asks for."""

PROPOSALS = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("boxes", pa.list_(pa.field("element", pa.list_(pa.float32(), 4)))),
        pa.field("scores", pa.list_(pa.field("element", pa.float32()))),
    ]
)
"""A table of proposals. `boxes`: xyxy in the image frame, best first. `scores`: null if there are none."""

BOXES = pa.list_(pa.list_(pa.field("item", pa.float32()), 4))
"""The boxes of one image in the tables of proposals that this program writes."""

PROPOSALS_CACHE = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("boxes", BOXES),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("error", pa.string()),
    ]
)
"""Proposals that training computed. The boxes and sizes are null if there is an `error`."""

PROPOSALS_EXPORT = PROPOSALS.append(pa.field("etag", pa.string())).append(
    pa.field("error", pa.string())
)
"""Proposals of an RPN before they are written to a table. Rows with an error are not written. The ETag shows
which version of the image was done."""

PROPOSALS_IMPORT = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("boxes", BOXES, nullable=False),
        pa.field("scores", pa.list_(pa.float32())),
    ]
)
"""Proposals of another program."""

OPERATING_POINTS = pa.schema(
    [
        pa.field("label", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        *(pa.field(name, pa.float64()) for name in ("threshold", "precision", "recall", "f1")),
    ]
)
"""Thresholds for the scores of each class. `kind`: `best_f1`, `precision` or `recall`. The numbers are null
if no threshold gives what was asked for, or if the class has no objects."""

CONFUSION = pa.schema(
    [
        pa.field("label", pa.string(), nullable=False),
        pa.field("found_as", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)
"""What objects of class `label` were taken for, at the best F1. `background` as `label`: boxes on no object,
and second boxes of one object. `background` as `found_as`: objects that no box fits. Pairs that do not occur
have no row."""

MATCHES = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("score", pa.float32()),
        *_BOX,
        pa.field("kind", pa.string(), nullable=False),
        pa.field("iou", pa.float32()),
        pa.field("gt_label", pa.string()),
        pa.field("above", pa.bool_(), nullable=False),
    ]
)
"""Every detected box (`kind` tp or fp) and every missed object (fn, without score and IoU) of an evaluation.

`gt_label` is the class of the object. Of an fp, it is the class that the box overlaps by an IoU of .5:
another class or, for a second box of one object, its own class. `above`: whether the score reaches the best
F1 of the class; always true for fn. Where `above` is true, the rows are what people see at this score."""


def with_shards(images: pa.Table, shards: pa.Array) -> pa.Table:
    """Return images (NAMED, or with the columns PLACE too) as rows of PLAN."""
    columns = [
        shards
        if field.name == "shard"
        else images[field.name]
        if field.name in images.column_names
        else pa.nulls(images.num_rows, field.type)
        for field in PLAN
    ]
    return pa.table(columns, names=PLAN.names).cast(PLAN)


SUSPECTS = pa.schema(
    [
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("suspect", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        *_BOX,
        pa.field("found_label", pa.string(), nullable=False),
        pa.field("found_score", pa.float64(), nullable=False),
        *(pa.field(f"found_{field.name}", pa.float32()) for field in _BOX),
        pa.field("iou", pa.float64(), nullable=False),
        pa.field("annotation_uri", pa.string()),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("cleanlab", pa.float64()),
    ]
)
"""`suspects.parquet`: labels that are probably wrong, by falling `score`; `rank` counts from 1. `kind`:
`missing_label`, `bad_box` or `wrong_class`. `label` and x_min ... y_max: the label; null if it is missing.
`found_...`: the detection. `iou`: of the two; for a missing label, the highest with any label. `suspect`: a
name that does not depend on the other rows. `run_id`: the run that did not train on the image. `cleanlab`:
cleanlab's score of the same label, 0 is suspicious; null if it was not asked."""


def scored_metadata(
    classes: Sequence[str], model_id: str, *, format_version: int | None = None
) -> dict[bytes, bytes]:
    """Return the file metadata of `scored/` and `detections/`: format version, classes, coordinates, model.

    Args:
        classes: K names, written as JSON; label k is classes[k - 1].
        model_id: the detector.
        format_version: None means TABLE_VERSION.
    """
    version = TABLE_VERSION if format_version is None else format_version
    return {
        b"format_version": str(version).encode(),
        b"classes": json.dumps(list(classes), ensure_ascii=False).encode(),
        b"coordinates": COORDINATES.encode(),
        b"model_id": model_id.encode(),
    }


class NewerFormatError(ValueError):
    """The file is undamaged, but this program is too old to read it."""


def check_version(version: int, newest: int) -> None:
    """Check that this program can read a format.

    Args:
        version: the version of the format that the file names.
        newest: the newest version that this program reads. It reads all older versions too.

    Raises:
        NewerFormatError: `version` is above `newest`.
        ValueError: `version` is below 1, so no program wrote it.
    """
    if version > newest:
        raise NewerFormatError(
            f"was written by a newer version of this program (format {version}, this one reads {newest})"
        )
    if version < 1:
        raise ValueError(f"format_version is {version}, expected 1 to {newest}")


def read_columns(file: pq.ParquetFile, wanted: Iterable[pa.Field]) -> pa.Table:
    """Read columns of one file. A nullable column that the file lacks is filled with nulls.

    Args:
        file: a Parquet file of this format or an older one. Other columns in it are ignored.
        wanted: the columns to return, in this order.

    Raises:
        KeyError: the file lacks a column that is not nullable.
    """
    fields = list(wanted)
    present = set(file.schema_arrow.names)
    missing = [field.name for field in fields if field.name not in present and not field.nullable]
    if missing:
        raise KeyError(f"no column {missing[0]}")
    # At least one column is read, because without a column pyarrow loses the number of rows.
    names = [field.name for field in fields if field.name in present] or file.schema_arrow.names[:1]
    table = file.read(names)
    columns = [
        table[field.name] if field.name in present else pa.nulls(table.num_rows, field.type)
        for field in fields
    ]
    return pa.table(columns, names=[field.name for field in fields])


def image_keys(rows: pa.Table) -> Iterator[tuple[str, str | None]]:
    """Yield (image_uri, etag) of each row. The pair identifies one version of an image."""
    return zip(rows["image_uri"].to_pylist(), rows["etag"].to_pylist(), strict=True)


def in_tables_of(rows: int, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Regroup tables into tables of `rows` rows. The last table may have fewer."""
    pending: list[pa.Table] = []
    count = 0
    for table in tables:
        pending.append(table)
        count += table.num_rows
        if count < rows:
            continue
        joined = pa.concat_tables(pending)
        full = count - count % rows
        for first in range(0, full, rows):
            yield joined.slice(first, rows)
        pending, count = [joined.slice(full)], count - full
    if count:
        yield pa.concat_tables(pending)


def encode_parquet(table: pa.Table, *, metadata: Mapping[bytes, bytes]) -> bytes:
    """Encode a table as a Parquet file: zstd, page checksums, `metadata` in its footer.

    The file is made in memory, because a file that is written in pieces stays incomplete if its writer fails.

    Raises:
        ValueError: a column that is not nullable has a null. pyarrow would write it without an error.
    """
    for field, column in zip(table.schema, table.columns, strict=True):
        if not field.nullable and column.null_count:
            raise ValueError(
                f"column {field.name} has {column.null_count} nulls, but it is not nullable"
            )
    merged = {**(table.schema.metadata or {}), **metadata}
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(merged), sink, compression="zstd", write_page_checksum=True
    )
    return sink.getvalue()
