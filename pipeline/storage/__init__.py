"""URIs, listing, reading, writing, retries: the only package that talks to storage.

Every URI is a local path or any fsspec URL. S3 has a store of its own (conditional requests, keys byte for
byte, typed errors); endpoint, region and credentials come from the standard AWS variables of the process.
"""

from pipeline.errors import (
    ObjectChanged,
    ObjectDenied,
    ObjectMissing,
    ObjectTooLarge,
    ObjectUnreadable,
    StorageError,
)
from pipeline.schema import NAMED
from pipeline.storage.folders import download_folder, upload_folder
from pipeline.storage.listing import as_named, is_marker, iter_pages, list_objects, lists_in_order
from pipeline.storage.manifest import (
    MANIFEST_SUFFIXES,
    is_inventory,
    is_manifest,
    iter_manifest,
)
from pipeline.storage.objects import (
    arrow_filesystem,
    check_exclusive_create,
    create_bytes,
    driver_errors,
    exists,
    local_copy,
    read_bytes,
    stat,
    upload_file,
    write_bytes,
)
from pipeline.storage.uris import ObjectInfo, absolute, basename, join, stem

__all__ = [
    "MANIFEST_SUFFIXES",
    "NAMED",
    "ObjectChanged",
    "ObjectDenied",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectTooLarge",
    "ObjectUnreadable",
    "StorageError",
    "absolute",
    "arrow_filesystem",
    "as_named",
    "basename",
    "check_exclusive_create",
    "create_bytes",
    "download_folder",
    "driver_errors",
    "exists",
    "is_inventory",
    "is_manifest",
    "is_marker",
    "iter_manifest",
    "iter_pages",
    "join",
    "list_objects",
    "lists_in_order",
    "local_copy",
    "read_bytes",
    "stat",
    "stem",
    "upload_file",
    "upload_folder",
    "write_bytes",
]
