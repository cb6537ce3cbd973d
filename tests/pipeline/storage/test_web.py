"""Web addresses: versions, statuses, and the number of requests."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import storage
from pipeline.errors import ObjectUnreachable, UserError
from pipeline.record.listed import ListedImages
from pipeline.storage import Access, web
from tests.pipeline.storage.web_server import Page, Site, serving

DATA = bytes(range(256)) * 40
ETAG = {"ETag": '"abc"'}
DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.fixture
def site() -> Iterator[Site]:
    with serving({}) as served:
        yield served


def stat_and_read(uri: str) -> tuple[str, int | None]:
    """Do what a list without ETags and a worker do; give version and size."""
    info = storage.stat(uri, deadline_s=1)
    assert info.uri == uri
    assert storage.read_bytes(uri, etag=info.etag, max_bytes=len(DATA), deadline_s=1) == DATA
    return info.etag, info.size


@pytest.mark.parametrize(
    ("page", "version", "size"),
    [
        (Page(DATA, headers=ETAG), "abc", 10240),
        (Page(DATA, headers={"ETag": 'W/"abc"'}), 'W/"abc', 10240),
        (Page(DATA, headers=ETAG | {"Last-Modified": DATE}), "abc", 10240),
        (Page(DATA, headers={"Last-Modified": DATE}), DATE, 10240),
        (Page(DATA), "2800", 10240),  # the size, in hex
        (Page(DATA, headers=ETAG, chunked=True), "abc", None),
        (Page(DATA, headers=ETAG, length=None), "abc", None),
        (Page(DATA, chunked=True), "no-version", None),
        (Page(DATA, length=None, headers={"Last-Modified": DATE}), DATE, None),
        (Page(DATA, head_length=0), "no-version", None),
        (Page(DATA, headers=ETAG, head_length=7), "abc", 7),
    ],
)
def test_a_page_has_a_version_whatever_its_server_states(
    site: Site, page: Page, version: str, size: int | None
) -> None:
    site.pages["/a.jpg"] = page
    assert stat_and_read(f"{site.address}/a.jpg") == (version, size)
    assert site.requests == ["HEAD /a.jpg", "GET /a.jpg"]


@pytest.mark.parametrize("status", [403, 405, 400, 501])
def test_a_server_that_refuses_head_gets_a_get(site: Site, status: int) -> None:
    site.pages["/a.jpg"] = Page(DATA, headers=ETAG, head_status=status)
    assert stat_and_read(f"{site.address}/a.jpg") == ("abc", 10240)
    assert site.requests == ["HEAD /a.jpg", "GET /a.jpg", "GET /a.jpg"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (403, storage.ObjectDenied),
        (401, storage.ObjectDenied),
        (404, storage.ObjectMissing),
        (410, storage.ObjectMissing),
        (400, storage.ObjectUnreadable),
        (500, ObjectUnreachable),
        (503, ObjectUnreachable),
    ],
)
def test_a_refusal_has_the_status_that_it_means(
    site: Site, status: int, error: type[storage.StorageError]
) -> None:
    site.pages["/a.jpg"] = Page(status=status)
    for call in (storage.stat, storage.read_bytes):
        with pytest.raises(error, match=rf"a\.jpg: .*{status}") as caught:
            call(f"{site.address}/a.jpg", deadline_s=0.3)
        assert type(caught.value) is error


def test_a_look_up_takes_one_head_for_each_image(site: Site) -> None:
    site.pages |= {f"/{n}.jpg": Page(DATA, headers=ETAG) for n in range(5)}
    site.pages["/4.jpg"] = Page(status=403)
    uris = [f"{site.address}/{n}.jpg" for n in range(6)]
    listed = ListedImages()
    nulls = [None] * 6
    listed.add(pa.table([uris, nulls, nulls], schema=storage.NAMED))
    listed.deduplicate(None, look_up=True)
    assert listed.first(9)["etag"].to_pylist() == ["abc"] * 4 + [None] * 2
    listed.close()
    heads = sorted(request for request in site.requests if request.startswith("HEAD"))
    assert heads == [f"HEAD /{n}.jpg" for n in range(6)]
    assert [request for request in site.requests if request not in heads] == ["GET /4.jpg"]


def test_another_version_than_the_listed_one_is_changed(site: Site) -> None:
    site.pages["/a.jpg"] = Page(DATA, headers=ETAG)
    site.pages["/b.jpg"] = Page(DATA, headers={"Last-Modified": DATE})
    site.pages["/c.jpg"] = Page(DATA)
    for name in "abc":
        with pytest.raises(storage.ObjectChanged, match="but it was xyz when it was listed"):
            storage.read_bytes(f"{site.address}/{name}.jpg", etag="xyz")
    for etag in ("abc", 'W/"abc', None):
        assert storage.read_bytes(f"{site.address}/a.jpg", etag=etag) == DATA


@pytest.mark.parametrize("page", [Page(DATA), Page(DATA, chunked=True), Page(DATA, length=None)])
def test_a_page_above_the_limit_is_too_large(site: Site, page: Page) -> None:
    site.pages["/a.jpg"] = page
    with pytest.raises(storage.ObjectTooLarge, match="more than the limit|more bytes than"):
        storage.read_bytes(f"{site.address}/a.jpg", max_bytes=len(DATA) - 1)
    assert storage.read_bytes(f"{site.address}/a.jpg", max_bytes=len(DATA)) == DATA


def test_a_body_that_is_cut_is_read_again_and_then_unreadable(site: Site) -> None:
    site.pages["/a.jpg"] = Page(DATA, length=len(DATA) + 5)
    with pytest.raises(storage.ObjectUnreadable, match="gave up after"):
        storage.read_bytes(f"{site.address}/a.jpg", deadline_s=0.5)
    assert len(site.requests) > 1


def test_a_host_without_a_server_is_given_up_soon(site: Site) -> None:
    with socket.socket() as unserved:
        unserved.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unserved.getsockname()[1]}/a.jpg"
        with pytest.raises(storage.ObjectUnreadable, match="127"):
            storage.read_bytes(uri, deadline_s=100)


def test_signed_addresses_are_sent_byte_for_byte_and_others_are_escaped(site: Site) -> None:
    site.pages["/a%2Fb.jpg?s=x%2Fy%3D&t=%41"] = Page(DATA, headers=ETAG)
    site.pages["/caf%C3%A9%20x.jpg"] = Page(DATA, headers=ETAG)
    stat_and_read(f"{site.address}/a%2Fb.jpg?s=x%2Fy%3D&t=%41")
    stat_and_read(f"{site.address}/caf\u00e9 x.jpg")


def test_a_list_on_the_web_is_read_and_its_entries_are_relative_to_it(site: Site) -> None:
    site.pages["/in/m.csv?key=1"] = Page(b"uri\na.jpg\n../b.jpg\ns3://b/c.jpg\n")
    (table,) = storage.iter_image_list(f"{site.address}/in/m.csv?key=1")
    assert table["image_uri"].to_pylist() == [
        f"{site.address}/in/a.jpg",
        f"{site.address}/b.jpg",
        "s3://b/c.jpg",
    ]
    with pytest.raises(UserError, match="does not exist"):
        list(storage.iter_image_list(f"{site.address}/none.csv"))
    with pytest.raises(UserError, match="a web server gives no listing"):
        storage.list_objects(f"{site.address}/folder")


@pytest.mark.parametrize("path", ["folder/", "a.jpg", "folder/*.jpg"])
def test_a_server_that_cannot_be_reached_is_not_an_empty_folder(path: str) -> None:
    with pytest.raises(UserError, match="cannot be reached"):
        storage.list_objects(f"http://127.0.0.1:9/{path}")


STRICT = Access(any_scheme=False, http=True, private_hosts=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
def test_a_private_host_is_denied_and_gets_no_request(site: Site, host: str) -> None:
    """DNS may name it, and so may other spellings of its address."""
    site.pages["/a.jpg"] = Page(DATA, headers=ETAG)
    uri = f"{site.address}/a.jpg".replace("127.0.0.1", host)
    for call in (storage.stat, storage.read_bytes):
        with pytest.raises(storage.ObjectDenied, match="--allow-private-hosts"):
            call(uri, access=STRICT)
    assert site.requests == []


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1"])
def test_other_spellings_of_a_private_address_get_no_request(site: Site, host: str) -> None:
    uri = f"{site.address}/a.jpg".replace("127.0.0.1", host)
    with pytest.raises((storage.ObjectDenied, storage.ObjectUnreadable)):
        storage.read_bytes(uri, access=STRICT, deadline_s=0.3)
    assert site.requests == []


def test_a_redirect_to_a_private_host_is_denied(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.1 stands for a public host here."""
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1")
    with serving({"/secret.jpg": Page(DATA, headers=ETAG)}, "127.0.0.2") as inside:
        place = {"Location": f"{inside.address}/secret.jpg"}
        site.pages["/a.jpg"] = Page(status=302, headers=place)
        site.pages["/b.jpg"] = Page(status=302, headers={"Location": "/a.jpg"})
        for name in "ab":
            for call in (storage.stat, storage.read_bytes):
                with pytest.raises(storage.ObjectDenied, match=r"127\.0\.0\.2 is not an address"):
                    call(f"{site.address}/{name}.jpg", access=STRICT)
        assert inside.requests == []
        assert stat_and_read(f"{site.address}/b.jpg") == ("abc", 10240)


def test_a_redirect_to_http_is_denied_unless_http_is_allowed(site: Site) -> None:
    """The server itself has no certificate, so the first request goes through the store without https."""
    site.pages["/a.jpg"] = Page(status=301, headers={"Location": f"{site.address}/b.jpg"})
    site.pages["/b.jpg"] = Page(DATA)
    path = f"{site.address}/a.jpg".removeprefix("http://")
    store = web.WebStore("http", "http://", Access(http=False))
    with pytest.raises(storage.ObjectDenied, match="redirects to .* is not encrypted"):
        store.read(path, etag=None, max_bytes=None, deadline_s=1)
    assert site.requests == ["GET /a.jpg"]


def test_endless_and_foreign_redirects_are_unreadable(site: Site, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"secret")
    site.pages["/a.jpg"] = Page(status=302, headers={"Location": "/a.jpg"})
    site.pages["/b.jpg"] = Page(status=302, headers={"Location": f"file://{tmp_path}/x"})
    site.pages["/c.jpg"] = Page(status=302)
    causes = {"a": "without an end", "b": "redirects to file://.* no web address", "c": "302"}
    for name, cause in causes.items():
        site.requests.clear()
        with pytest.raises(storage.ObjectUnreadable, match=cause) as caught:
            storage.read_bytes(f"{site.address}/{name}.jpg", deadline_s=60)
        assert not isinstance(caught.value, ObjectUnreachable)  # the same answer each time
        assert name == "a" or site.requests == [f"GET /{name}.jpg"]


def test_a_part_that_nobody_asked_for_is_no_image(site: Site) -> None:
    site.pages["/a.jpg"] = Page(DATA[:100], status=206, headers=ETAG)
    with pytest.raises(storage.ObjectUnreadable, match="only a part"):
        storage.read_bytes(f"{site.address}/a.jpg", deadline_s=60)
