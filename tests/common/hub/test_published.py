"""Downloads from a local server: resumed, verified, cached; cards against the published networks."""

import hashlib
import io
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from rich.console import Console

from common.checkpoints.formats.bodies import build_body
from common.hub.cache import cache_directory
from common.hub.cards import CARDS, Card, get_card
from common.hub.checksums import pin_path
from common.hub.fetching import fetch
from common.hub.published import load_weights, published_classifier, published_denoiser
from common.networks import WideResNet

CONTENT = bytes(range(256)) * 4096


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(self.headers.get("Range"))
        start = int(self.headers["Range"][6:-1]) if self.headers.get("Range") and server.resumes else 0
        if start >= len(server.content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        self.wfile.write(server.content[start : server.breaks_at])
        server.breaks_at = None

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.requests, server.resumes, server.breaks_at = CONTENT, [], True, None
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def publish(server, monkeypatch):
    def publish(**changes):
        stated = {"sha256": hashlib.sha256(CONTENT).hexdigest(), "size": len(CONTENT)} | changes
        url = f"http://127.0.0.1:{server.server_port}/file.pt"
        made = Card("a test", url, "https://example.org/page", "file.pt", "none", "robustbench_wrn", **stated)
        monkeypatch.setitem(CARDS, "test", made)

    return publish


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


def visible(folder):
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_download_verify_and_keep(server, publish, console, tmp_path):
    publish()
    path = fetch("test", tmp_path, console)
    assert path.read_bytes() == CONTENT
    assert visible(tmp_path) == {"file.pt", "file.pt.json"}
    pin = json.loads(pin_path(path).read_text())
    assert (pin["sha256"], pin["size"]) == (hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    assert "licence: none" in console.file.getvalue()
    assert "unverified" not in console.file.getvalue()
    assert fetch("test", tmp_path, console) == path
    assert server.requests == [None]


def test_a_broken_download_is_continued(server, publish, console, tmp_path):
    publish()
    server.breaks_at = 100_000
    with pytest.raises(ConnectionError, match=r"100000 bytes are kept; .* save it from https://example.org/page"):
        fetch("test", tmp_path, console)
    assert not (tmp_path / "file.pt").exists()
    assert fetch("test", tmp_path, console).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-"]


def test_a_server_that_cannot_resume_starts_again(server, publish, console, tmp_path):
    publish()
    server.resumes = False
    (tmp_path / "file.pt.part").write_bytes(b"something else")
    assert fetch("test", tmp_path, console).read_bytes() == CONTENT


@pytest.mark.parametrize(("part", "requests"), [(CONTENT, 1), (CONTENT + b"of another file", 2)])
def test_a_complete_part_is_used_and_a_longer_one_is_not(part, requests, server, publish, console, tmp_path):
    publish()
    (tmp_path / "file.pt.part").write_bytes(part)
    assert fetch("test", tmp_path, console).read_bytes() == CONTENT
    assert len(server.requests) == requests


def test_concurrent_processes_download_once(server, publish, tmp_path):
    publish()
    consoles = [Console(file=io.StringIO(), width=200) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda console: fetch("test", tmp_path, console), consoles))
    assert server.requests == [None]
    assert {path.read_bytes() for path in paths} == {CONTENT}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:-1] + b"x", r"its sha256 must be \w+ and is \w+"),
        (CONTENT[:-1], "must have 1048576 bytes and has 1048575"),
        (b"<html>quota exceeded</html>", "it is a web page"),
    ],
)
def test_another_file_is_refused(content, message, server, publish, console, tmp_path):
    publish()
    server.content = content
    with pytest.raises(ValueError, match=message):
        fetch("test", tmp_path, console)
    assert visible(tmp_path) == {"file.pt.refused"}
    server.content = CONTENT
    fetch("test", tmp_path, console)


def test_a_file_put_there_by_hand_is_verified(server, publish, console, tmp_path):
    publish()
    (tmp_path / "file.pt").write_bytes(CONTENT)
    fetch("test", tmp_path, console)
    assert server.requests == []
    assert pin_path(tmp_path / "file.pt").exists()


# Later uses -----------------------------------------------------------------------------------------------------------


def rewrite(path, content, times=None):
    """Write other content; ``times`` keeps or sets back the modification time."""
    before = path.stat()
    path.write_bytes(content)
    if times == "kept":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif times == "older":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns - 10**12))


@pytest.mark.parametrize("times", [None, "kept", "older"])
def test_a_file_that_changed_in_the_cache_is_refused(times, publish, console, tmp_path):
    publish()
    path = fetch("test", tmp_path, console)
    rewrite(path, CONTENT[:-1] + b"x", times)
    with pytest.raises(ValueError, match="its sha256 must be"):
        fetch("test", tmp_path, console)


def test_without_a_published_checksum_the_first_file_is_pinned(publish, console, tmp_path):
    publish(sha256=None, size=None)
    fetch("test", tmp_path, console)
    output = console.file.getvalue()
    assert "unverified" in output
    assert hashlib.sha256(CONTENT).hexdigest() in output
    fetch("test", tmp_path, console)
    assert console.file.getvalue() == output


@pytest.mark.parametrize("times", [None, "kept", "older"])
@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT[:-1]])
def test_without_a_published_checksum_a_change_is_refused(content, times, publish, console, tmp_path):
    publish(sha256=None, size=None)
    path = fetch("test", tmp_path, console)
    rewrite(path, content, times)
    first, now = (hashlib.sha256(c).hexdigest() for c in (CONTENT, content))
    for _ in range(2):  # and the file is left where it is
        with pytest.raises(ValueError, match=rf"changed since it was first fetched on .* was {first} and is {now}"):
            fetch("test", tmp_path, console)
    pin_path(path).unlink()  # as the message advises
    assert fetch("test", tmp_path, console).read_bytes() == content


def test_a_download_that_differs_from_the_first_is_refused_unless_forced(server, publish, console, tmp_path):
    publish(sha256=None, size=None)
    path = fetch("test", tmp_path, console)
    path.unlink()
    server.content = b"another file"
    with pytest.raises(ValueError, match=r"first fetched on \S+ had sha256 \w+, this one has \w+"):
        fetch("test", tmp_path, console)
    assert visible(tmp_path) == {"file.pt.json", "file.pt.refused"}
    assert fetch("test", tmp_path, console, force=True).read_bytes() == b"another file"
    fetch("test", tmp_path, console)


def test_a_refused_download_leaves_the_old_file(server, publish, console, tmp_path):
    publish()
    path = fetch("test", tmp_path, console)
    server.content = b"<html>quota exceeded</html>"
    with pytest.raises(ValueError, match="web page"):
        fetch("test", tmp_path, console, force=True)
    assert path.read_bytes() == CONTENT
    fetch("test", tmp_path, console)


def test_a_file_that_was_touched_or_copied_is_the_same(server, publish, console, tmp_path):
    publish(sha256=None, size=None)
    path = fetch("test", tmp_path, console)
    first = json.loads(pin_path(path).read_text()) | {"first": "2020-02-20"}  # long ago
    pin_path(path).write_text(json.dumps(first))
    os.utime(path)
    fetch("test", tmp_path, console)
    again = json.loads(pin_path(path).read_text())
    assert again.pop("modified") > first.pop("modified") and again.pop("changed") > first.pop("changed")
    assert again == first and server.requests == [None]


def test_an_unchanged_file_is_not_hashed_again(publish, console, tmp_path, monkeypatch):
    publish()
    fetch("test", tmp_path, console)
    monkeypatch.setattr("common.hub.checksums.file_sha256", lambda _: pytest.fail("hashed again"))
    fetch("test", tmp_path, console)


def test_a_damaged_pin_is_reported(publish, console, tmp_path):
    publish()
    path = fetch("test", tmp_path, console)
    pin_path(path).write_text('{"sha256": ')
    with pytest.raises(ValueError, match=r"file\.pt\.json is damaged .* Delete it"):
        fetch("test", tmp_path, console)


# Loading --------------------------------------------------------------------------------------------------------------


def test_nothing_is_downloaded_unless_requested(server, publish, tmp_path, monkeypatch):
    publish()
    monkeypatch.setenv("ROBUST_DIFFUSION_CACHE", str(tmp_path / "cache"))
    for load in (published_denoiser, published_classifier):
        with pytest.raises(FileNotFoundError, match=r"robust-diffusion fetch test \(in Python download=True"):
            load("test")
    assert server.requests == []
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ValueError, match=r"no card is named 'tset'\. Did you mean test\? The cards are"):
        get_card("tset")


def test_a_card_gives_a_classifier(server, publish, published, tmp_path, relative_error, monkeypatch):
    """From the cache, and from anywhere else, unverified."""
    reference = published("robustbench_wrn_small")
    torch.save({"state_dict": reference.state}, tmp_path / "made.pt")
    server.content = (tmp_path / "made.pt").read_bytes()
    monkeypatch.setenv("ROBUST_DIFFUSION_CACHE", str(tmp_path / "cache"))
    publish(sha256=None, size=None, config=reference.config)
    for classifier in (
        published_classifier("test", download=True),
        published_classifier("test"),
        published_classifier("test", path=tmp_path / "made.pt"),
    ):
        with torch.no_grad():
            assert relative_error(classifier(reference.arrays["x"]), reference.arrays["logits"]) < 1e-5
    assert server.requests == [None]
    assert visible(tmp_path / "cache") == {"file.pt", "file.pt.json"} and visible(tmp_path) == {"cache", "made.pt"}
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        published_classifier("test", path=tmp_path / "elsewhere.pt")


@pytest.mark.parametrize("nest", [None, "state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_any_file_are_loaded_by_name(nest, prefix, tmp_path):
    torch.manual_seed(0)
    trained = WideResNet(10, 1).eval()
    state = {f"{prefix}{name}": value for name, value in trained.state_dict().items()}
    torch.save({nest: state, "epoch": 3, "acc": 94.1} if nest else state, tmp_path / "own.pt")
    torch.manual_seed(1)
    network = load_weights(WideResNet(10, 1), tmp_path / "own.pt")
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network(image), trained(image))
    assert not network.training
    with pytest.raises(ValueError, match=r"own\.pt must be exactly those of the network.*of another shape"):
        load_weights(WideResNet(10, 2), tmp_path / "own.pt")


def test_an_unreachable_server(publish, server, console, tmp_path, monkeypatch):
    publish()
    gone = Card("a test", "http://127.0.0.1:9/file.pt", "https://example.org/page", "file.pt", "none", "edm")
    monkeypatch.setitem(CARDS, "test", gone)
    with pytest.raises(ConnectionError, match="could not be fetched"):
        fetch("test", tmp_path, console)


PARAMETERS = {
    "score_sde_cifar10": 106_632_579,
    "guided_diffusion_imagenet256": 552_814_086,
    "sdedit_celebahq256": 113_673_219,
    "edm_cifar10_conditional": 55_740_000,
    "edm_cifar10_unconditional": 55_730_000,
    "edm_imagenet64_conditional": 295_900_000,
    "robustbench_cifar10_standard": 36_480_000,
}


@pytest.mark.parametrize("name", CARDS)
def test_cards_describe_the_published_networks(name):
    """Parameter counts of the papers and their files; EDM's and WRN's are stated to four digits."""
    network = build_body(CARDS[name].format, CARDS[name].config)
    count = sum(p.numel() for p in network.parameters())
    assert count == pytest.approx(PARAMETERS[name], rel=2e-4)
    assert CARDS[name].parameters == count
    assert CARDS[name].url.startswith("https://")
    assert CARDS[name].licence


def test_the_cache_may_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("ROBUST_DIFFUSION_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("ROBUST_DIFFUSION_CACHE")
    assert cache_directory().name == "robust-diffusion"
