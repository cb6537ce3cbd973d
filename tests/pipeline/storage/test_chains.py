"""Chained URIs name members of archives without doubt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.storage.chains import (
    Chain,
    archive_part,
    escape_name,
    member_name,
    member_part,
    split_chain,
)
from pipeline.storage.uris import parse

NAMES = st.binary(min_size=1, max_size=12) | st.lists(
    st.sampled_from([b":", b"%", b"a", b"/", b"\xff", "é".encode(), b"41"]), min_size=1, max_size=8
).map(b"".join)


@given(NAMES)
def test_a_name_of_any_bytes_comes_back(name: bytes) -> None:
    uri = f"tar://{escape_name(name)}::s3://bucket/x::y.tar"
    chain = split_chain(uri)
    assert chain is not None
    assert member_name(chain.name) == name
    assert (chain.archive, chain.uri) == ("s3://bucket/x::y.tar", uri)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        (b"folder/1.jpg", "folder/1.jpg"),
        (b"100%.jpg", "100%25.jpg"),
        (b"a::b.jpg", "a%3A%3Ab.jpg"),
        (b"a:b.jpg", "a:b.jpg"),
        (b"a:", "a%3A"),
        (b"\xff%.jpg", "%FF%25.jpg"),
        (b"../../etc/passwd", "../../etc/passwd"),
    ],
)
def test_names_are_written_as_the_contract_says(name: bytes, written: str) -> None:
    assert escape_name(name) == written


def test_base_name_and_suffix_are_those_of_the_member() -> None:
    uri = "zip://folder/1.JPG::s3://bucket/x.zip"
    assert storage.basename(uri) == "1.JPG"
    assert storage.stem(uri) == "1"
    assert (member_part(uri), archive_part(uri)) == ("folder/1.JPG", "s3://bucket/x.zip")
    assert (member_part("s3://b/a::b"), archive_part("s3://b/a::b")) == ("s3://b/a::b",) * 2


def test_only_the_archive_of_a_chain_becomes_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    assert storage.absolute("tar://../a.jpg::x.tar") == "tar://../a.jpg::/tmp/x.tar"
    assert parse("tar://a::s3://b/x.tar").scheme == "tar"
    assert split_chain("parquet://17::s3://b/x.parquet") == Chain(
        "parquet", "17", "s3://b/x.parquet"
    )
    assert split_chain("tar://a.jpg") is None
