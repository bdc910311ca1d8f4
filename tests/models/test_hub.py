"""Fetching weights, against a small hub on this machine."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from bodyloop.errors import ModelError
from bodyloop.models import hub
from bodyloop.models.cards import Card, Licenses, WeightsFile
from bodyloop.models.checkpoints import save_safetensors
from bodyloop.models.hub import fetch, fetch_card, find_local, human_size
from bodyloop.models.registry import find_card
from tests.models.test_cards import POSE

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/models"
CONTENT = np.random.default_rng(0).bytes(300_000)


@dataclass
class Hub:
    """The hub's files, what was asked of it, and how it misbehaves."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    cut_after: int = 0  # bytes of a body after which the connection breaks; 0 for never
    cuts: int = 0  # how often
    wrong: bool = False  # the body differs from what was promised
    endpoint: str = ""

    def body(self) -> list[tuple[str, str]]:
        return [a for a in self.asked if a[0] == "GET"]


def handler(state: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            state.asked.append((self.command, self.path))
            repository, _, rest = self.path.strip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            content = state.files.get(name) if revision in ("main", COMMIT) else None
            if repository != REPOSITORY or content is None:
                code = "EntryNotFound" if repository == REPOSITORY else "RepoNotFound"
                self.send_response(404)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = 0
            asked = self.headers.get("Range")
            if asked:
                start = int(asked.removeprefix("bytes=").partition("-")[0])
            data = content[start:]
            self.send_response(206 if asked else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Accept-Ranges", "bytes")
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if not body:
                return
            if state.wrong:
                data = bytes(len(data))
            if state.cut_after and state.cuts > 0:
                state.cuts -= 1
                self.wfile.write(data[: state.cut_after])
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True
                return
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def server() -> Iterator[Hub]:
    state = Hub({"folder/mine.pth": CONTENT})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.endpoint = f"http://127.0.0.1:{httpd.server_address[1]}"
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join(timeout=5)


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(hub.FOLDER_VARIABLE, raising=False)


def card(licence: str = "MIT", **weights: object) -> Card:
    place = {"repository": REPOSITORY, "revision": COMMIT, "size_bytes": 300_000, **weights}
    like = Card.from_toml(POSE)
    return replace(
        like,
        licenses=Licenses("MIT", licence, "mine"),
        weights=WeightsFile("folder/mine.pth", "pth", **place),  # type: ignore[arg-type]
    )


def left_over(cache: Path) -> list[str]:
    """Files in the cache that hold content, complete or not."""
    return [p.name for p in cache.rglob("*") if p.is_file() and p.stat().st_size > 1000]


def test_first_use_downloads_and_second_does_not(server: Hub, tmp_path: Path) -> None:
    assert find_local(card(), cache=tmp_path) is None
    path = fetch(card(), cache=tmp_path, endpoint=server.endpoint)
    assert path.read_bytes() == CONTENT and path.name == "mine.pth"
    assert find_local(card(), cache=tmp_path) == path
    assert server.asked[0] == ("HEAD", f"/{REPOSITORY}/resolve/{COMMIT}/folder/mine.pth")
    before = len(server.asked)
    assert fetch(card(), cache=tmp_path, endpoint=server.endpoint) == path
    assert len(server.asked) == before  # not even a question


def test_a_branch_is_asked_once(server: Hub, tmp_path: Path) -> None:
    branch = card(revision="main")
    path = fetch(branch, cache=tmp_path, endpoint=server.endpoint)
    before = len(server.asked)
    server.files.clear()  # the cached file stays what it is: the same model tomorrow
    assert fetch(branch, cache=tmp_path, endpoint=server.endpoint) == path
    assert len(server.asked) == before


def test_the_sum_is_checked(server: Hub, tmp_path: Path) -> None:
    right = hashlib.sha256(CONTENT).hexdigest()
    assert fetch(card(sha256=right), cache=tmp_path / "a", endpoint=server.endpoint).read_bytes() == CONTENT
    server.wrong = True
    with pytest.raises(ModelError, match=rf"mine: .*not the file its card means .*expected {right}"):
        fetch(card(sha256=right), cache=tmp_path / "b", endpoint=server.endpoint)
    assert left_over(tmp_path / "b") == []
    server.wrong = False  # and the next try is not spoilt by it
    assert fetch(card(sha256=right), cache=tmp_path / "b", endpoint=server.endpoint).read_bytes() == CONTENT


def test_a_broken_connection_is_resumed(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda s: None)
    server.cut_after, server.cuts = 100_000, 2
    path = fetch(card(), cache=tmp_path, endpoint=server.endpoint)
    assert path.read_bytes() == CONTENT
    assert len(server.body()) == 3


def test_a_dead_connection_leaves_nothing_under_the_name(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda s: None)
    server.cut_after, server.cuts = 1, 10**6
    server.files["folder/mine.pth"] = b"x" * 20  # cut again and again before the end
    monkeypatch.setattr("huggingface_hub.file_download.http_get", _gives_up)
    with pytest.raises(ModelError, match=r"folder/mine\.pth \(300 kB\) of someone/models .* gave up"):
        fetch(card(), cache=tmp_path, endpoint=server.endpoint)
    assert not list(tmp_path.rglob("mine.pth"))
    monkeypatch.undo()
    server.cuts = 0
    assert fetch(card(), cache=tmp_path, endpoint=server.endpoint).read_bytes() == b"x" * 20


def _gives_up(url: str, temp_file: object, **kw: object) -> None:
    temp_file.write(b"half")  # type: ignore[attr-defined]
    raise ConnectionError("gave up")


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"repository": "someone/else"}, "someone/else"),
        ({"revision": "v9"}, "folder/mine.pth"),
    ],
    ids=["repository", "revision"],
)
def test_what_the_hub_does_not_have(server: Hub, tmp_path: Path, weights: dict[str, str], says: str) -> None:
    with pytest.raises(ModelError, match=says) as e:
        fetch(card(**weights), cache=tmp_path, endpoint=server.endpoint)
    assert "BODYLOOP_MODELS" in str(e.value)


def test_without_network_the_error_says_what_to_put_where(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"  # the discard port: refused at once
    with pytest.raises(ModelError) as e:
        fetch(card(), cache=tmp_path / "cache", endpoint=nobody)
    text = str(e.value)
    for part in (
        "mine: the file folder/mine.pth (300 kB) of someone/models",
        f"/someone/models/resolve/{COMMIT}/folder/mine.pth",
        "set BODYLOOP_MODELS=",
        str(tmp_path / "cache"),
        "HF_HOME",
    ):
        assert part in text
    assert "\n" not in text


@pytest.mark.slow  # five processes
def test_offline_switch_is_obeyed(server: Hub, tmp_path: Path) -> None:
    """The whole path as a user has it: environment variables, another process, names of the catalogue."""
    code = (
        "import sys, logging; logging.basicConfig(level=logging.WARNING)\n"
        "from bodyloop.errors import ModelError\n"
        "from bodyloop.models.registry import resolve\n"
        "try: print(resolve(sys.argv[1])[1])\n"
        "except ModelError as e: print('ModelError', e)\n"
    )
    server.files["bodyloop.toml"] = POSE.replace("mine.safetensors", "x.safetensors").encode()
    server.files["x.safetensors"] = CONTENT
    variables = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": server.endpoint}
    variables.pop("HF_HUB_CACHE", None)

    def run(name: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, name],
            env={**variables, **more},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "ModelError probpose-s: the file ProbPose-s.pth (161 MB)" in run("probpose-s", HF_HUB_OFFLINE="1")
    assert "ModelError" in run(REPOSITORY, HF_HUB_OFFLINE="1")
    first = run(REPOSITORY)
    place, notice = first.split("\n", 1)
    assert str(tmp_path / "home") in place and place.endswith("x.safetensors")
    assert "cannot be verified" in notice
    said = run("probpose-s")  # the small hub does not have it, but the notice comes before
    assert "licensed under GPL-3.0" in said and "ModelError" in said
    assert run(REPOSITORY, HF_HUB_OFFLINE="1").strip() == place  # cached by now, and quietly


def addressed(server: Hub, **more: object) -> Card:
    """A card whose file lies on no hub; the small hub serves it as a plain file."""
    url = f"{server.endpoint}/{REPOSITORY}/resolve/main/folder/mine.pth"
    weights = WeightsFile("mine.pth", "pth", url=url, size_bytes=300_000, **more)  # type: ignore[arg-type]
    return replace(card(), weights=weights)


def test_a_file_with_an_address_of_its_own(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda s: None)
    right = hashlib.sha256(CONTENT).hexdigest()
    known = addressed(server, sha256=right[:8])
    assert known.weights is not None and known.weights.remote
    assert find_local(known, cache=tmp_path) is None
    server.cut_after, server.cuts = 100_000, 2  # resumed, as from the hub
    path = fetch(known, cache=tmp_path)
    assert path.read_bytes() == CONTENT and path.name == "mine.pth"
    assert len(server.body()) == 3
    assert fetch(known, cache=tmp_path) == path == find_local(known, cache=tmp_path)
    assert len(server.body()) == 3
    server.wrong = True
    with pytest.raises(ModelError, match=rf"not the file its card means .*expected {right[:8]}\)"):
        fetch(known, cache=tmp_path / "b")
    assert left_over(tmp_path / "b") == []


def test_an_address_that_does_not_answer(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda s: None)
    server.files.clear()
    with pytest.raises(ModelError, match=r"mine: the file mine\.pth \(300 kB\) is not here .*404"):
        fetch(addressed(server), cache=tmp_path)
    gone = WeightsFile("mine.pth", "pth", url="http://127.0.0.1:9/some/mine.pth")
    with pytest.raises(ModelError) as e:
        fetch(replace(card(), weights=gone), cache=tmp_path)
    text = str(e.value)
    assert "download http://127.0.0.1:9/some/mine.pth elsewhere" in text and "set BODYLOOP_MODELS=" in text
    assert left_over(tmp_path) == [] and "\n" not in text
    monkeypatch.setenv(hub.FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "mine.pth").write_bytes(b"x")
    assert fetch(replace(card(), weights=gone)) == tmp_path / "mine.pth"


def test_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = "http://127.0.0.1:9"
    monkeypatch.setenv(hub.FOLDER_VARIABLE, str(tmp_path))
    places = [
        tmp_path / "mine.pth",
        tmp_path / "folder" / "mine.pth",
        tmp_path / REPOSITORY / "folder" / "mine.pth",
    ]
    for place in places:  # each later one wins over the earlier
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"x")
        assert fetch(card(), cache=tmp_path / "c", endpoint=nobody) == place
    with pytest.raises(ModelError, match="unset BODYLOOP_MODELS"):
        fetch(card(sha256="0" * 64), cache=tmp_path / "c", endpoint=nobody)
    assert places[-1].exists()  # what is the user's own is never removed


def test_model_safetensors_alone_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hub.FOLDER_VARIABLE, str(tmp_path))
    generic = replace(card(), weights=WeightsFile("sub/model.safetensors", "safetensors", REPOSITORY))
    (tmp_path / "model.safetensors").write_bytes(b"some other model")
    with pytest.raises(ModelError, match="could not be fetched"):
        fetch(generic, cache=tmp_path / "c", endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("licence", ["GPL-3.0", "AGPL-3.0-only"])
def test_copyleft_is_said_at_the_first_download_only(
    server: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, licence: str
) -> None:
    with caplog.at_level(logging.WARNING, "bodyloop"):
        fetch(card(licence), cache=tmp_path, endpoint=server.endpoint)
        assert [r.levelname for r in caplog.records if licence in r.getMessage()] == ["WARNING"]
        caplog.clear()
        fetch(card(licence), cache=tmp_path, endpoint=server.endpoint)
        assert not [r for r in caplog.records if licence in r.getMessage()]


def test_permissive_weights_come_quietly(
    server: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "bodyloop"):
        fetch(card(), cache=tmp_path, endpoint=server.endpoint)
    assert not [r for r in caplog.records if r.name.startswith("bodyloop")]


def test_configurations_without_weights() -> None:
    with pytest.raises(ModelError, match="maskpose-b-wb: no weights were published"):
        fetch(find_card("maskpose-b-wb"))
    assert find_local(find_card("maskpose-b-wb")) is None
    with pytest.raises(ModelError, match="beside the card"):
        fetch(Card.from_toml(POSE))


def test_a_repository_with_its_own_card(server: Hub, tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    save_safetensors(file, {"a": np.ones(3, np.float32)}, Card.from_toml(POSE))
    server.files["bodyloop.toml"] = POSE.encode()
    server.files["mine.safetensors"] = file.read_bytes()
    own = fetch_card(REPOSITORY, cache=tmp_path / "c", endpoint=server.endpoint)
    assert own.weights is not None and own.weights.repository == REPOSITORY
    path = fetch(own, cache=tmp_path / "c", endpoint=server.endpoint)
    assert path.read_bytes() == file.read_bytes()


def test_a_malformed_card_on_the_hub(server: Hub, tmp_path: Path) -> None:
    server.files["bodyloop.toml"] = b"name = 3"
    with pytest.raises(ModelError, match=r"the card of someone/models on the hub is malformed.*name"):
        fetch_card(REPOSITORY, cache=tmp_path, endpoint=server.endpoint)
    server.files["bodyloop.toml"] = POSE.encode()  # mended: the broken one was not kept
    assert fetch_card(REPOSITORY, cache=tmp_path, endpoint=server.endpoint).name == "mine"
    with pytest.raises(ModelError, match="the card of no/thing"):
        fetch_card("no/thing", cache=tmp_path, endpoint=server.endpoint)
    with pytest.raises(ModelError):
        fetch_card("no//thing/../x", cache=tmp_path, endpoint=server.endpoint)


@pytest.mark.parametrize(
    ("size", "words"),
    [(12, "12 bytes"), (300_000, "300 kB"), (161_062_852, "161 MB"), (3_257_000_000, "3.26 GB")],
)
def test_sizes_in_words(size: int, words: str) -> None:
    assert human_size(size) == words
