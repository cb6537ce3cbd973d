"""What lists may name."""

from __future__ import annotations

import pytest

from pipeline import storage
from pipeline.storage import Access
from pipeline.storage.access import is_public, links
from pipeline.storage.stores import check_access


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",  # what clouds answer credentials on
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%1",
        "fd00:ec2::254",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::a9fe:a9fe",
    ],
)
def test_other_addresses_are_not(address: str) -> None:
    assert not is_public(address)


def test_only_a_member_of_an_archive_begins_a_chain() -> None:
    assert links("s3://b/a::b?c") == ["s3://b/a::b?c"]
    assert links("/a::b") == ["/a::b"]
    assert links("zip://1.jpg::s3://b/x::y.zip") == ["zip://1.jpg", "s3://b/x::y.zip"]
    assert links("tar://1::zip://2.tar::http://h/x") == ["tar://1", "zip://2.tar", "http://h/x"]


def test_each_link_of_a_chain_is_checked() -> None:
    strict = Access(any_scheme=False, http=False, private_hosts=False)
    for uri in ("/a.jpg", "s3://b/a", "gs://b/a", "https://h/a", "zip://1::s3://b/x.zip"):
        check_access(uri, strict)
    for uri in ("zip://1::http://h/x.zip", "tar://1::ftp://h/x.tar", "memory://a", "reference://x"):
        with pytest.raises(storage.ObjectDenied):
            check_access(uri, strict)
        check_access(uri, storage.OPEN)
