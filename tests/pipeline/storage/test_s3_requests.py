"""The requests that S3 gets: pages, who pays, signatures, access points."""

from __future__ import annotations

import http.server
import os
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from pipeline import storage
from pipeline.errors import UserError
from pipeline.storage.s3_settings import bucket_and_key, unsigned


@dataclass
class Seen:
    """The requests of a test, and how its listing answers."""

    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Command with path, and the headers in lower case."""
    empty_after: list[str] = field(default_factory=list)
    """Keys after which one page is empty; "" is the first page."""
    token: bool = True
    """Whether an empty page has a token."""

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]


KEYS = [f"in/{number}.jpg" for number in range(6)]


def page(seen: Seen, asked: dict[str, str]) -> str:
    """Answer a listing with two keys a page. A token names the key that the next page follows."""
    after = asked.get("continuation-token", asked.get("start-after", "")).removeprefix("token:")
    again = "continuation-token" in asked
    empty = after in seen.empty_after and not again
    keys = [] if empty else [key for key in KEYS if key > after][:2]
    more = empty or bool(keys) and keys[-1] != KEYS[-1]
    last = after if empty else keys[-1] if keys else ""
    token = f"<NextContinuationToken>token:{last}</NextContinuationToken>" if seen.token else ""
    contents = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size><ETag>&quot;e&quot;</ETag></Contents>"
        for key in keys
    )
    return (
        f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token if more else ''}"
        f"{contents}</ListBucketResult>"
    )


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    noted = Seen()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Write nothing."""

        def answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            noted.requests.append((f"{self.command} {self.path}", headers))
            self.rfile.read(int(headers.get("content-length", 0)))
            asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
            body = page(noted, asked).encode() if "list-type" in asked else b"x"
            body = b"" if self.command == "PUT" else body
            self.send_response(200)
            self.send_header("ETag", '"9dd4e461268c8034f5c8564e155c67a6"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = answer

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield noted
        server.shutdown()


@pytest.mark.parametrize(
    "empty", [[], [""], ["in/1.jpg"], ["", "in/1.jpg", "in/3.jpg"], ["in/5.jpg"]]
)
@pytest.mark.parametrize("ordered", [True, False])
def test_an_empty_page_of_a_listing_is_not_its_end(
    seen: Seen, empty: list[str], ordered: bool
) -> None:
    seen.empty_after = empty
    pages = storage.iter_pages("s3://b/in/", ordered=ordered)
    assert sorted(info.uri for page in pages for info in page) == [f"s3://b/{key}" for key in KEYS]


def test_an_empty_page_that_leads_nowhere_is_an_error(seen: Seen) -> None:
    seen.empty_after, seen.token = [""], False
    with pytest.raises(UserError, match="is empty, says that there is more, and has no new token"):
        storage.list_objects("s3://b/in/")


def use_everything(root: str) -> None:
    """One request of each kind that scoring makes."""
    storage.stat(f"{root}/a")
    storage.read_bytes(f"{root}/a")
    storage.write_bytes(f"{root}/a", b"x")
    storage.create_bytes(f"{root}/a", b"x")
    storage.list_objects(f"{root}/in/")
    with storage.local_copy(f"{root}/a"):
        pass


def test_the_requester_pays_if_the_environment_says_so(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_everything("s3://b")
    assert not any("x-amz-request-payer" in headers for _, headers in seen.requests)
    seen.requests.clear()
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    use_everything("s3://b")
    assert len(seen.requests) >= 8
    assert all(headers["x-amz-request-payer"] == "requester" for _, headers in seen.requests)
    monkeypatch.setenv("AWS_REQUEST_PAYER", "me")
    with pytest.raises(UserError, match="AWS_REQUEST_PAYER=me: expected requester"):
        storage.stat("s3://b/a")


def test_requests_are_unsigned_and_need_no_credentials_if_the_environment_says_so(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    use_everything("s3://b")
    assert all("authorization" in headers for _, headers in seen.requests)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    nowhere = str(tmp_path_factory.mktemp("aws") / "none")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, nowhere)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UserError, match="AWS_NO_SIGN_REQUEST=YES"):
        storage.list_objects("s3://b/in/")
    seen.requests.clear()
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    use_everything("s3://b")
    assert len(seen.requests) >= 8
    assert not any("authorization" in headers for _, headers in seen.requests)


def test_only_the_named_buckets_get_unsigned_requests(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "open-images, maps")
    for bucket in ("open-images", "maps", "results"):
        use_everything(f"s3://{bucket}")
    for path, headers in seen.requests:
        assert ("authorization" in headers) == ("/results" in path)


@pytest.mark.parametrize(
    ("value", "anonymous"),
    [
        ("", False),
        ("no", False),
        ("FALSE", False),
        ("0", False),
        ("1", True),
        ("true", True),
        ("b", True),
    ],
)
def test_the_environment_says_yes_no_or_a_bucket(
    monkeypatch: pytest.MonkeyPatch, value: str, anonymous: bool
) -> None:
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", value)
    assert unsigned("b") == anonymous


AP = "arn:aws:s3:eu-west-1:123456789012:accesspoint"
OUTPOST = "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-01/accesspoint/prod"


@pytest.mark.parametrize(
    ("path", "bucket", "key"),
    [
        ("b/in/a.jpg", "b", "in/a.jpg"),
        ("b", "b", ""),
        ("b//a", "b", "/a"),
        (f"{AP}/prod/in/a.jpg", f"{AP}/prod", "in/a.jpg"),
        (f"{AP}:prod/in/a:b.jpg", f"{AP}:prod", "in/a:b.jpg"),
        (f"{AP}/prod", f"{AP}/prod", ""),
        (f"{AP}/prod/", f"{AP}/prod", ""),
        (
            "arn:aws:s3::123456789012:accesspoint/m.mrap/a",
            "arn:aws:s3::123456789012:accesspoint/m.mrap",
            "a",
        ),
        (f"{OUTPOST}/a/b", OUTPOST, "a/b"),
        (AP.replace("aws:", "aws-cn:") + "/prod/a", AP.replace("aws:", "aws-cn:") + "/prod", "a"),
        (
            AP.replace("s3:", "s3-object-lambda:") + "/f/a",
            AP.replace("s3:", "s3-object-lambda:") + "/f",
            "a",
        ),
    ],
)
def test_the_name_of_a_bucket_may_be_the_arn_of_an_access_point(
    path: str, bucket: str, key: str
) -> None:
    assert bucket_and_key(path) == (bucket, key)


def test_objects_of_an_access_point_are_listed_and_read(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """botocore makes the host of an access point. No DNS knows it, so the server is the proxy."""
    monkeypatch.setenv("http_proxy", os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.example")
    monkeypatch.setenv("no_proxy", "")
    for root in (f"s3://{AP}/prod", f"s3://{AP}:prod"):
        seen.requests.clear()
        infos = storage.list_objects(root)
        assert [info.uri for info in infos] == [f"{root}/{key}" for key in KEYS]
        assert storage.read_bytes(f"{root}/in/a.jpg") == b"x"
        assert storage.stat(f"{root}/in/a.jpg").uri == f"{root}/in/a.jpg"
        host = "http://prod-123456789012.s3.example"
        assert seen.paths()[-2:] == [f"GET {host}/in/a.jpg", f"HEAD {host}/in/a.jpg"]
