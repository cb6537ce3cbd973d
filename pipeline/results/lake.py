"""Writes the boxes of a run to an Iceberg or a Delta table, with the writers of Ray Data.

The input is the table that `pipeline.compact` makes, one row per box. The table of the lake is replaced in
one commit, so its readers see either the old run or this one. The same command again changes only the
version. The record itself stays plain Parquet, which needs no catalogue.

The Iceberg catalogue is the one that pyiceberg calls "default". Its address is in .pyiceberg.yaml or in the
environment (PYICEBERG_CATALOG__DEFAULT__URI). Delta needs no catalogue. Both take credentials from the AWS
variables.
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
    """Raise UserError if the extra is not installed or --output does not name an Iceberg table."""
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
            "does not name an Iceberg table",
            "Expected NAMESPACE.TABLE, as in the catalogue.",
        )


def write(config: ExportConfig, detections: str) -> None:
    """Replace a table of the lake with the boxes of a run.

    Args:
        config: gives the format, the table and the lowest score.
        detections: URI of the run's table under detections/.

    Raises:
        JobError: the write failed. The table is unchanged.
    """
    cluster.connect(allow_open=config.allow_open_cluster)
    cluster.configure_ray_data()
    DataContext.get_current().use_datasource_v2 = False  # it starts 32 actors to read one footer
    filesystem, path = storage.arrow_filesystem(detections)
    rows = ray.data.read_parquet(path, filesystem=filesystem).map_batches(
        filter_boxes, batch_format="pyarrow", fn_kwargs={"min_score": config.min_score}
    )
    try:
        _WRITERS[config.format](rows, config.output)
    except Exception as error:  # a dozen libraries can fail here, each with its own exceptions
        raise JobError(f"{config.output} was not written: {error}") from error


def filter_boxes(rows: pa.Table, *, min_score: float = 0.0) -> pa.Table:
    """Keep the boxes with a score of at least `min_score`, with the types of DETECTIONS.

    The cast removes dictionary encoding, which neither format supports.
    """
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
        options["AWS_ALLOW_HTTP"] = "true"  # the user chose an http endpoint
    target = storage.absolute(uri)
    filesystem = storage.arrow_filesystem(uri)[0] if "://" in target else None
    rows.write_delta(
        target, mode=SaveMode.OVERWRITE, storage_options=options or None, filesystem=filesystem
    )


_WRITERS: dict[str, Any] = {"iceberg": _write_iceberg, "delta": _write_delta}
