"""A finished run's boxes as an Iceberg or a Delta table, by Ray Data's own writers.

What is written is the table that `pipeline.compact` makes, one row a box. The lake's table is replaced in
one commit: its readers see the run before, then this one, and the same command again changes nothing but the
version. The record itself stays plain Parquet, which needs no catalogue.

Iceberg's catalogue is the one that pyiceberg calls "default": its .pyiceberg.yaml, or the environment
(PYICEBERG_CATALOG__DEFAULT__URI). Delta needs none. Both take credentials from the AWS variables.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import DataContext, Dataset, SaveMode

from pipeline import storage
from pipeline.config import ExportConfig
from pipeline.errors import JobError, UserError
from pipeline.runtime import cluster
from pipeline.schema import DETECTIONS

_PACKAGES = {"iceberg": "pyiceberg", "delta": "deltalake"}
_CATALOG = "default"


def check(config: ExportConfig) -> None:
    """Raises UserError where the extra is not installed, or an Iceberg table has no name."""
    package = _PACKAGES[config.format]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"--format {config.format}",
            f"needs {package}, which is not installed ({error})",
            f"Install fastrcnn-ray[{config.format}], on the workers too.",
        ) from error
    namespace, _, name = config.output.rpartition(".")
    if config.format == "iceberg" and ("/" in config.output or not namespace or not name):
        raise UserError(
            f"--output {config.output}",
            "is no Iceberg table",
            "Give NAMESPACE.TABLE of its catalogue.",
        )


def write(config: ExportConfig, detections: str) -> None:
    """Replace a table of the lake by the boxes of a run.

    Args:
        config: the format, the table and the lowest score.
        detections: URI of the run's table under detections/.

    Raises:
        JobError: the write failed; the table is as it was.
    """
    cluster.connect(allow_open=config.allow_open_cluster)
    cluster.configure_ray_data()
    DataContext.get_current().use_datasource_v2 = False  # it starts 32 actors to read one footer
    filesystem, path = storage.arrow_filesystem(detections)
    rows = ray.data.read_parquet(path, filesystem=filesystem).map_batches(
        plain, batch_format="pyarrow", fn_kwargs={"min_score": config.min_score}
    )
    try:
        _WRITERS[config.format](rows, config.output)
    except Exception as error:  # of a dozen libraries, each with its own
        raise JobError(f"{config.output} was not written: {error}") from error


def plain(rows: pa.Table, *, min_score: float = 0.0) -> pa.Table:
    """Rows of detections/ as their schema has them: Parquet's dictionaries are known to neither format."""
    return rows.filter(pc.greater_equal(rows["score"], min_score)).cast(DETECTIONS)


def _write_iceberg(rows: Dataset, table: str) -> None:
    from pyiceberg.catalog import load_catalog

    catalog = load_catalog(_CATALOG)
    catalog.create_namespace_if_not_exists(table.rpartition(".")[0])
    catalog.create_table_if_not_exists(table, schema=DETECTIONS)
    rows.write_iceberg(table, catalog_kwargs={"name": _CATALOG}, mode=SaveMode.OVERWRITE)


def _write_delta(rows: Dataset, uri: str) -> None:
    options: dict[str, str] = {}
    if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"  # as the endpoint says
    target = storage.absolute(uri)
    filesystem = storage.arrow_filesystem(uri)[0] if "://" in target else None
    rows.write_delta(
        target, mode=SaveMode.OVERWRITE, storage_options=options or None, filesystem=filesystem
    )


_WRITERS: dict[str, Any] = {"iceberg": _write_iceberg, "delta": _write_delta}
