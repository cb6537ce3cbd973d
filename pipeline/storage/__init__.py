"""URIs, listing, reading, writing, retries: the only package that talks to storage.

Every URI is a local path or any fsspec URL. S3 has a store of its own (conditional requests, keys byte for
byte, typed errors); endpoint, region and credentials come from the standard AWS variables of the process.
"""

from pipeline.storage.errors import (
    ObjectChanged,
    ObjectDenied,
    ObjectMissing,
    ObjectTooLarge,
    ObjectUnreadable,
    StorageError,
)
from pipeline.storage.folders import download_folder, upload_folder
from pipeline.storage.manifest import MANIFEST_SUFFIXES, read_manifest
from pipeline.storage.objects import (
    arrow_filesystem,
    check_exclusive_create,
    create_bytes,
    driver_errors,
    exists,
    list_objects,
    read_bytes,
    stat,
    upload_file,
    write_bytes,
)
from pipeline.storage.uris import ObjectInfo, absolute, basename, join, stem

__all__ = [
    "MANIFEST_SUFFIXES",
    "ObjectChanged",
    "ObjectDenied",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectTooLarge",
    "ObjectUnreadable",
    "StorageError",
    "absolute",
    "arrow_filesystem",
    "basename",
    "check_exclusive_create",
    "create_bytes",
    "download_folder",
    "driver_errors",
    "exists",
    "join",
    "list_objects",
    "read_bytes",
    "read_manifest",
    "stat",
    "stem",
    "upload_file",
    "upload_folder",
    "write_bytes",
]
