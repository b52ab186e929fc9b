"""Downloads that are resumed: one version of the file, of the stated length, and no link is written through."""

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from common.hub.cards import CARDS, Card
from common.hub.downloads import version_path
from common.hub.fetching import fetch

OLD, NEW = b"old" * 1000, b"NEW" * 1000


class Server(ThreadingHTTPServer):
    content, version, breaks_at = OLD, {"ETag": '"1"'}, 1000
    extra: dict[str, str] = {}  # noqa: RUF012
    length: str | None = ""
    asked: list[dict[str, str | None]]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, given = self.server, {name: self.headers.get(name) for name in ("Range", "If-Range")}
        server.asked.append(given)
        same = given["If-Range"] in (None, *server.version.values())
        start = int(given["Range"][6:-1]) if given["Range"] and same else 0
        self.send_response(206 if start else 200)
        for name, value in {**server.version, **server.extra}.items():
            self.send_header(name, value)
        if server.length is not None:
            self.send_header("Content-Length", server.length or str(len(server.content) - start))
        self.end_headers()
        self.wfile.write(server.content[start : server.breaks_at or None])
        server.breaks_at = 0

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.asked = []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def get(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, **card: Any) -> bytes:
    url = f"http://127.0.0.1:{server.server_port}/a.pt"
    monkeypatch.setitem(CARDS, "test", Card("a test", url, url, "a.pt", "none", "robustbench_wrn", **card))
    return fetch("test", folder, Console(file=io.StringIO())).read_bytes()


VERSIONS: list[tuple[dict[str, str], dict[str, str]]] = [
    ({"ETag": '"1"'}, {"ETag": '"2"'}),
    ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, {"Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT"}),
    ({"ETag": 'W/"1"'}, {"ETag": 'W/"1"'}),  # a weak tag does not name the bytes
    ({}, {}),
]


@pytest.mark.parametrize("versions", VERSIONS, ids=["etag", "date", "weak etag", "neither"])
def test_two_versions_are_never_mixed(
    versions: tuple[dict[str, str], dict[str, str]], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.version = versions[0]
    named = versions[0] and "W/" not in str(versions)
    with pytest.raises(ConnectionError, match="1000 bytes are kept" if named else "ended early"):
        get(server, tmp_path, monkeypatch)
    server.version, server.content = versions[1], NEW
    assert get(server, tmp_path, monkeypatch) == NEW
    assert not version_path(tmp_path / "a.pt.part").exists()


@pytest.mark.parametrize("version", [versions[0] for versions in VERSIONS[:2]])
def test_the_same_version_is_continued(
    version: dict[str, str], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.version = version
    with pytest.raises(ConnectionError):
        get(server, tmp_path, monkeypatch)
    assert get(server, tmp_path, monkeypatch) == OLD
    assert server.asked[1] == {"Range": "bytes=1000-", "If-Range": next(iter(version.values()))}


@pytest.mark.parametrize(
    ("changes", "card", "message"),
    [
        ({"length": None}, {}, "does not state the length"),
        ({"length": "99999"}, {"size": len(OLD)}, "must have at most 3000 bytes; the server offers 99999"),
        ({"length": "99999"}, {"parameters": 100}, "must have at most 4000 bytes"),
        ({"length": "3001"}, {}, "ended early"),
    ],
)
def test_the_length_is_checked(
    changes: dict[str, Any], card: dict[str, Any], message: str, server: Server, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    server.breaks_at = 0
    for name, value in changes.items():
        setattr(server, name, value)
    with pytest.raises(ConnectionError, match=message):
        get(server, tmp_path, monkeypatch, **card)
    assert not (tmp_path / "a.pt").exists()


def test_another_range_is_refused(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectionError):
        get(server, tmp_path, monkeypatch)
    server.extra = {"Content-Range": "bytes 500-2999/3000"}
    with pytest.raises(ConnectionError, match="another range"):
        get(server, tmp_path, monkeypatch)


@pytest.mark.parametrize("link", ["symbolic", "hard", "of the version"])
@pytest.mark.parametrize("stated", [True, False])
def test_a_planted_link_is_not_written_through(
    link: str, stated: bool, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.breaks_at = 0
    victim, cache = tmp_path / "victim", tmp_path / "cache"
    victim.write_bytes(b"precious")
    cache.mkdir()
    part = cache / "a.pt.part"
    {"symbolic": os.symlink, "hard": os.link, "of the version": os.symlink}[link](
        victim, version_path(part) if link == "of the version" else part
    )
    card = {"sha256": hashlib.sha256(OLD).hexdigest()} if stated else {}
    assert get(server, cache, monkeypatch, **card) == OLD
    assert victim.read_bytes() == b"precious"
