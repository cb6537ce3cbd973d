"""The only package that talks to storage: URIs, listing, lists of images, reading, writing, retries.

Every URI is a local path or an fsspec URL. S3 has its own implementation, with conditional requests, keys
byte for byte and typed errors. Endpoint, region and credentials come from the standard AWS environment
variables of the process.
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
from pipeline.storage.access import OPEN, Access
from pipeline.storage.folders import download_folder, upload_folder
from pipeline.storage.list_formats import LIST_SUFFIXES, ListOptions
from pipeline.storage.listing import (
    as_named,
    is_marker,
    iter_pages,
    list_objects,
    list_prefix,
    lists_in_order,
)
from pipeline.storage.lists import BY_SUFFIX, is_image_list, is_inventory, iter_image_list
from pipeline.storage.objects import (
    age_s,
    arrow_filesystem,
    check_exclusive_create,
    check_writable,
    create_bytes,
    delete,
    driver_errors,
    exists,
    gives_ranges,
    local_copy,
    read_bytes,
    read_listed,
    read_range,
    stat,
    upload_file,
    write_bytes,
)
from pipeline.storage.uris import ObjectInfo, absolute, basename, is_system_file, join, stem

__all__ = [
    "BY_SUFFIX",
    "LIST_SUFFIXES",
    "NAMED",
    "OPEN",
    "Access",
    "ListOptions",
    "ObjectChanged",
    "ObjectDenied",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectTooLarge",
    "ObjectUnreadable",
    "StorageError",
    "absolute",
    "age_s",
    "arrow_filesystem",
    "as_named",
    "basename",
    "check_exclusive_create",
    "check_writable",
    "create_bytes",
    "delete",
    "download_folder",
    "driver_errors",
    "exists",
    "gives_ranges",
    "is_image_list",
    "is_inventory",
    "is_marker",
    "is_system_file",
    "iter_image_list",
    "iter_pages",
    "join",
    "list_objects",
    "list_prefix",
    "lists_in_order",
    "local_copy",
    "read_bytes",
    "read_listed",
    "read_range",
    "stat",
    "stem",
    "upload_file",
    "upload_folder",
    "write_bytes",
]
