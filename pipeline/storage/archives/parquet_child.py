"""The process that parses Parquet files of strangers: it reads the footer, or images of one row group.

    request   length of a JSON object (`LENGTH`), the object, then the bytes of its `parts`
    reply     length of a JSON object, the object, then the images that it names

It gets only the parts of the file that it needs, and opens no file. `pipeline.storage.archives.parquet`
starts it.
"""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runtime.child_process import LENGTH, limit_resources, open_pipes

NULL, OVERSIZED = -1, -2
"""Lengths of a row without bytes, and of one with more bytes than allowed."""
MOST_GROUPS = 100_000
_BYTES = "bytes"
_TEXT = 500


class _Parts(io.RawIOBase):
    """A file of which only some parts are known."""

    def __init__(self, size: int, parts: list[tuple[int, bytes]]) -> None:
        self._size, self._parts, self._at = size, parts, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def size(self) -> int:
        return self._size

    def read(self, count: int = -1) -> bytes:
        wanted = self._size - self._at if count < 0 else min(count, self._size - self._at)
        for first, data in self._parts:
            begin = self._at - first
            if 0 <= begin and begin + wanted <= len(data):
                self._at += wanted
                return data[begin : begin + wanted]
        raise OSError(f"the footer names {wanted} bytes at {self._at}, which are not of these rows")


def serve(memory_bytes: int, seconds: int) -> None:
    """Answer requests until stdin ends. Arguments as for `pipeline.images.fence_child.serve`."""
    requests, replies = open_pipes()
    pa.set_memory_pool(pa.system_memory_pool())
    limit_resources(memory_bytes, threads=False)
    replies.write(LENGTH.pack(0))
    replies.flush()
    while head := requests.read(LENGTH.size):
        asked = json.loads(requests.read(*LENGTH.unpack(head)))
        parts = [(first, requests.read(length)) for first, length in asked["parts"]]
        signal.alarm(seconds)
        try:
            answer, images = _answer(asked, _Parts(asked["size"], parts))
        except (pa.ArrowException, OSError, ValueError, KeyError, IndexError, MemoryError) as error:
            answer, images = {"error": (str(error) or type(error).__name__)[:_TEXT]}, []
        signal.alarm(0)
        _write(replies, answer, images)


def _write(replies: BinaryIO, answer: Mapping[str, Any], images: list[memoryview]) -> None:
    encoded = json.dumps(answer).encode()
    replies.write(LENGTH.pack(len(encoded)) + encoded)
    for image in images:
        replies.write(image)
    replies.flush()


def _answer(asked: Mapping[str, Any], source: _Parts) -> tuple[dict[str, Any], list[memoryview]]:
    with pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=True) as file:
        if "group" not in asked:
            return _describe(file, asked["column"]), []
        column = _column_path(file.schema_arrow, asked["column"])
        table = file.read_row_group(asked["group"], columns=[column], use_threads=False)
        if table.num_rows != file.metadata.row_group(asked["group"]).num_rows:
            raise ValueError(f"the pages of the row group hold {table.num_rows} rows")
        values = table.column(0).combine_chunks()
        if pa.types.is_struct(values.type):
            values = values.field(_BYTES) if values.null_count == 0 else values.flatten()[0]
        return _images(values, asked["rows"], asked["max_bytes"])


def _images(
    values: pa.Array, rows: list[int], max_bytes: int
) -> tuple[dict[str, Any], list[memoryview]]:
    lengths, images = [], []
    for row in rows:
        if not 0 <= row < len(values):
            raise IndexError(f"the row group has {len(values)} rows, and no row {row}")
        value = values[row]
        if isinstance(value, pa.DictionaryScalar):
            value = value.value
        data = value.as_buffer() if value.is_valid else None
        if data is None:
            lengths.append(NULL)
        elif data.size > max_bytes:
            lengths.append(OVERSIZED)
        else:
            lengths.append(data.size)
            images.append(memoryview(data))
    return {"lengths": lengths}, images


def _describe(file: pq.ParquetFile, column: str | None) -> dict[str, Any]:
    """Return the columns, and where the images of each row group lie, if the column is known."""
    schema = file.schema_arrow
    fields = [
        {"name": field.name, "type": str(field.type)[:_TEXT], "images": is_images(field.type)}
        for field in schema
    ]
    with_images = [field["name"] for field in fields if field["images"]]
    if column is None and len(with_images) == 1:
        column = with_images[0]
    groups = []
    if column is not None and column in with_images:
        path = _column_path(schema, column)
        if file.metadata.num_row_groups > MOST_GROUPS:
            raise ValueError(f"it has more than {MOST_GROUPS} row groups")
        groups = [_group(file.metadata.row_group(n), path) for n in range(file.num_row_groups)]
    return {"columns": fields, "column": column, "groups": groups}


def _group(group: Any, path: str) -> dict[str, int]:
    chunks = (group.column(n) for n in range(group.num_columns))
    chunk = next(chunk for chunk in chunks if chunk.path_in_schema == path)
    first = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        first = min(first, chunk.dictionary_page_offset)
    return {
        "rows": group.num_rows,
        "offset": first,
        "length": chunk.total_compressed_size,
        "unpacked": chunk.total_uncompressed_size,
    }


def is_images(kind: pa.DataType) -> bool:
    """Whether a column may hold images: bytes, or a struct with the field ``bytes`` (Hugging Face)."""
    if pa.types.is_struct(kind) and kind.get_field_index(_BYTES) >= 0:
        kind = kind.field(_BYTES).type
    return _is_bytes(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _is_bytes(kind: pa.DataType) -> bool:
    is_kind = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(test(kind) for test in is_kind)


def _column_path(schema: pa.Schema, column: str) -> str:
    kind = schema.field(column).type
    return f"{column}.{_BYTES}" if pa.types.is_struct(kind) else column
