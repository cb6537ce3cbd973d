"""Query the Parquet in the bucket, and draw boxes."""

from __future__ import annotations

from pathlib import Path

import duckdb
import s3fs
from PIL import Image

from pipeline import images, storage
from pipeline.drawing.pictures import contact_sheet, draw_boxes
from pipeline.record import open_shard
from pipeline.results.run_config import read_run_config
from pipeline.results.scored import find_run

_NUM_PICTURES = 8
_CELL = 300  # pixels of a picture
_QUALITY = 80  # JPEG

QUERIES = {
    "Was every file scored, and if not, why?": """
        SELECT status, count(*) AS files, any_value(error) AS for_example
        FROM '{scored}'
        GROUP BY status ORDER BY files DESC""",
    "Which classes were detected, and with which scores?": """
        SELECT box.label, count(*) AS boxes, count(DISTINCT image_uri) AS images,
               round(avg(box.score), 3) AS mean_score
        FROM (SELECT image_uri, unnest(detections) AS box FROM '{scored}')
        WHERE box.score >= 0.5
        GROUP BY box.label ORDER BY boxes DESC""",
    "Which images show a ring and a cross, and how much of each do the boxes cover?": """
        SELECT parse_filename(image_uri) AS image,
               len(kept) AS boxes,
               round(100 * list_sum([(b.x_max - b.x_min) * (b.y_max - b.y_min) FOR b IN kept])
                     / (width * height), 1) AS percent_covered
        FROM (SELECT *, [d FOR d IN detections IF d.score >= 0.5] AS kept FROM '{scored}')
        WHERE list_has_all([b.label FOR b IN kept], ['ring', 'cross'])
        ORDER BY percent_covered DESC LIMIT 5""",
}
"""Question -> SQL for DuckDB. {scored} is replaced by the glob of the shards."""


def connect() -> duckdb.DuckDBPyConnection:
    """Open a DuckDB that reads s3:// through fsspec. It uses the AWS variables and downloads no extension."""
    connection = duckdb.connect()
    connection.register_filesystem(s3fs.S3FileSystem())
    return connection


def answer(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """Run a query and give the answer as a printed table."""
    return str(connection.sql(sql)).rstrip()


def draw_results(results: str, target: Path) -> int:
    """Draw boxes from the operating points on, of images with several boxes first; give the number of images.

    Args:
        results: the --output of the scoring job.
        target: the JPEG file to write.
    """
    files = find_run(results)
    described = read_run_config(files)
    rows = (
        connect()
        .sql(
            f"""SELECT image_uri, detections FROM '{results}/scored/**/*.parquet' WHERE status = 'ok'
            ORDER BY least(3, len([d FOR d IN detections IF d.score >= 0.5])) DESC, image_uri
            LIMIT {_NUM_PICTURES}"""
        )
        .fetchall()
    )
    with open_shard(files.uris[0]) as (_, classes, _):
        points = described.points(classes)
    pictures, captions = [], []
    for uri, found in rows:
        boxes = [box for box in found if box["score"] >= points[box["label"]]]
        pictures.append(
            draw_boxes(
                images.decode(storage.read_bytes(uri)).pixels,
                [[box[side] for side in ("x_min", "y_min", "x_max", "y_max")] for box in boxes],
                [box["label_id"] for box in boxes],
                [box["score"] for box in boxes],
                classes,
                zoom=2,
            )
        )
        captions.append(
            f"{storage.basename(uri)}: {len(boxes)} {'box' if len(boxes) == 1 else 'boxes'}"
        )
    if pictures:
        sheet = Image.fromarray(contact_sheet(pictures, captions, cell=_CELL))
        sheet.save(target, quality=_QUALITY, optimize=True)
    return len(pictures)
