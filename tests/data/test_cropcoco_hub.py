"""The published set, fetched from a small hub on this machine: whole, resumed, damaged, hostile."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import stat
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import PIL.Image
import pytest

from bodyloop.data import cropcoco_hub as m
from bodyloop.errors import FileError

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
LABELS = "annotations/person_keypoints_val2017.json"


def photo(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


PHOTOS = {f"{i:012d}.jpg": photo(i) for i in range(5)}
DOCUMENT = json.dumps(
    {
        "images": [{"id": i, "width": 16, "height": 12, "file_name": n} for i, n in enumerate(PHOTOS)],
        "annotations": [],
        "categories": [{"id": 1, "name": "person", "keypoints": ["nose"]}],
    }
).encode()
PLAIN = {
    "README.md": b"---\nlicense: gpl-3.0\n---\n",
    ".gitattributes": b"*.jpg filter=lfs\n",
    LABELS: DOCUMENT,
    **{f"val2017/{n}": data for n, data in PHOTOS.items()},
}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in files.items():
            z.writestr(name, data)
    return buffer.getvalue()


@dataclass
class Hub:
    """The data set's files, what was asked of the hub, and how it misbehaves."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(PLAIN))
    commit: str = COMMIT
    license: str | None = "gpl-3.0"
    asked: list[str] = field(default_factory=list)
    refuse: str = ""  # files whose name holds this are not given
    wrong: str = ""  # files whose name holds this come with other bytes
    endpoint: str = ""

    @property
    def bodies(self) -> list[str]:
        """Files that were given."""
        return [p for p in self.asked if p.startswith("GET") and "/resolve/" in p]


def handler(state: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            state.asked.append(f"{self.command} {path}")
            if re.fullmatch(rf"/api/datasets/{m.REPOSITORY}/revision/(main|{state.commit})", path):
                card = {} if state.license is None else {"cardData": {"license": state.license}}
                self.give_json({"id": m.REPOSITORY, "sha": state.commit, "siblings": [], **card}, body)
            elif path == f"/api/datasets/{m.REPOSITORY}/tree/{state.commit}":
                self.give_json([listed(n, data) for n, data in state.files.items()], body)
            elif path.startswith(f"/datasets/{m.REPOSITORY}/resolve/{state.commit}/"):
                self.give_file(path.partition(f"/resolve/{state.commit}/")[2], body)
            else:
                self.missing("RepoNotFound" if m.REPOSITORY not in path else "RevisionNotFound")

        def missing(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def give_json(self, value: object, body: bool) -> None:
            self.give(json.dumps(value).encode(), body, {"Content-Type": "application/json"})

        def give_file(self, name: str, body: bool) -> None:
            content = state.files.get(name)
            if content is None or (state.refuse and state.refuse in name):
                self.missing("EntryNotFound")
                return
            sent = bytes(len(content)) if state.wrong and state.wrong in name else content
            etag = hashlib.sha256(content).hexdigest()
            self.give(sent, body, {"ETag": f'"{etag}"', "X-Repo-Commit": state.commit})

        def give(self, data: bytes, body: bool, headers: dict[str, str]) -> None:
            self.send_response(200)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def listed(name: str, data: bytes) -> dict[str, object]:
    """A file as the hub lists it: photos in LFS with their sha256, the rest as git blobs."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": blob}
    if not name.endswith((".json", ".md")):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("time.sleep", lambda s: None)
    state = Hub()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.endpoint = f"http://127.0.0.1:{httpd.server_address[1]}"
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join(timeout=5)


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def fetch(hub: Hub, out: Path, **options: str) -> m.Fetched:
    return m.fetch_set(out, endpoint=hub.endpoint, **options)


SET = {LABELS: DOCUMENT, **{f"val2017/{n}": data for n, data in PHOTOS.items()}}


@pytest.mark.parametrize(
    "files",
    [
        PLAIN,
        {LABELS: DOCUMENT, "val2017.zip": zipped(PHOTOS)},
        {LABELS: DOCUMENT, "val2017.zip": zipped({f"val2017/{n}": d for n, d in PHOTOS.items()})},
        {
            "CropCOCO.zip": zipped(
                {**SET, "__MACOSX/._x.jpg": b"", "tool.py": b"print()", "val2017/._1.jpg": b""}
            )
        },
        {"annotations.zip": zipped({LABELS.partition("/")[2]: DOCUMENT}), "val2017.zip": zipped(PHOTOS)},
    ],
    ids=["files", "flat zip", "zip with its folder", "one zip", "two zips"],
)
def test_however_the_hub_keeps_it(hub: Hub, tmp_path: Path, files: dict[str, bytes]) -> None:
    hub.files = files
    done = fetch(hub, tmp_path / "out")
    assert (done.annotations, done.photos, done.images) == (LABELS, "val2017", 5)
    assert (done.commit, done.licence, done.revision) == (COMMIT, "gpl-3.0", "main")
    found = contents(tmp_path / "out")
    assert found.keys() - {"README.md"} == SET.keys() | {"cropcoco.json", "fetched.json"}
    assert all(found[name] == data for name, data in SET.items())
    before = len(hub.asked)
    assert fetch(hub, tmp_path / "out") == done
    assert fetch(hub, tmp_path / "out", revision=COMMIT) == done
    assert len(hub.asked) == before  # not even a question
    with pytest.raises(FileError, match=rf"holds {m.REPOSITORY} at {COMMIT}, not {m.REPOSITORY} at v2"):
        fetch(hub, tmp_path / "out", revision="v2")


@pytest.mark.parametrize(
    ("told", "said"), [("gpl-3.0", "GPL-3.0"), (None, "GPL-3.0"), ("cc-by-4.0", "CC-BY-4.0")]
)
def test_the_licence_is_said_before_anything_comes(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, told: str | None, said: str
) -> None:
    hub.license, hub.refuse = told, "."
    with caplog.at_level(logging.WARNING, "bodyloop"), pytest.raises(FileError):
        fetch(hub, tmp_path / "out")
    (line,) = (r.getMessage() for r in caplog.records if r.name.startswith("bodyloop"))
    assert f"{m.REPOSITORY} is licensed under {said} by its authors" in line and "6 files" in line


def test_what_has_come_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    hub.refuse = "0003.jpg"
    with pytest.raises(FileError, match="call again to go on"):
        fetch(hub, out)
    assert not (out / "fetched.json").exists()
    hub.refuse = ""
    hub.asked.clear()
    came = {n for n in SET if (out / n).is_file()}
    assert fetch(hub, out).images == 5
    again = {p.rpartition(f"{COMMIT}/")[2] for p in hub.bodies}
    assert "val2017/000000000003.jpg" in again and came and not came & again
    assert all(contents(out)[name] == data for name, data in SET.items())


@pytest.mark.parametrize("name", [LABELS, "val2017/000000000002.jpg"], ids=["git", "lfs"])
def test_damaged_files_are_taken_away(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.wrong = name
    with pytest.raises(FileError, match=rf"1 of 6 files did not come .* the first is {re.escape(name)}"):
        fetch(hub, tmp_path / "out")
    assert not (tmp_path / "out" / name).exists()
    hub.wrong = ""
    assert fetch(hub, tmp_path / "out").images == 5
    assert contents(tmp_path / "out")[name] == SET[name]


def test_two_states_of_a_branch_are_not_mixed(hub: Hub, tmp_path: Path) -> None:
    hub.refuse = "0003.jpg"
    with pytest.raises(FileError):
        fetch(hub, tmp_path / "out")
    hub.refuse, hub.commit = "", OTHER
    with pytest.raises(FileError, match="another set"):
        fetch(hub, tmp_path / "out")
    hub.commit = COMMIT
    assert fetch(hub, tmp_path / "out", revision=COMMIT).images == 5


def test_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    for options in ({"repository": "no/body"}, {"revision": "v9"}, {"repository": "no//thing/../x"}):
        with pytest.raises(FileError, match="could not be fetched"):
            fetch(hub, tmp_path / "out", **options)
    with pytest.raises(FileError, match=f"datasets/{m.REPOSITORY} elsewhere and copy its folders"):
        m.fetch_set(tmp_path / "out", endpoint="http://127.0.0.1:9")
    assert not (tmp_path / "out").exists()


def test_foreign_folders_are_left_alone(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(FileError, match="holds files and is no set"):
        fetch(hub, tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"thesis.txt": b"all of it"} and not hub.bodies


ONE = "val2017/000000000001.jpg"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../outside.json": b"{}"}, "outside of its own folder"),
        ({"data.csv": b"1"}, "has no person_keypoints_"),
        ({LABELS: b"[]"}, "no COCO file"),
        ({LABELS: b"{"}, "no COCO file"),
        ({LABELS: DOCUMENT, ONE: SET[ONE]}, "4 of the 5 photos .* are not there"),
        ({**PLAIN, LABELS: DOCUMENT.replace(b'"00', b'"../val2017/00')}, "5 of the 5 photos"),
    ],
)
def test_repositories_that_are_no_set(
    hub: Hub, tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    hub.files = files
    with pytest.raises(FileError, match=message):
        fetch(hub, tmp_path / "out")
    assert not (tmp_path / "outside.json").exists() and not (tmp_path / "out" / "fetched.json").exists()


def test_the_manifest_of_a_folder_is_ours(hub: Hub, tmp_path: Path) -> None:
    hub.files = {**PLAIN, "cropcoco.json": b"{}", "fetched.json": b"{}", ".cache/x.json": b"{}"}
    fetch(hub, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "cropcoco.json").read_bytes())["revision"] == COMMIT


# archives


def entry(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "bad",
    ["../1.jpg", "a/../../1.jpg", "/tmp/1.jpg", "C:/1.jpg", "..\\1.jpg", "link.jpg"],
)
def test_archives_that_lead_out(tmp_path: Path, bad: str) -> None:
    archive = tmp_path / "set" / "val.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr(entry("good.jpg"), b"x")
        z.writestr(
            entry(bad, stat.S_IFLNK | 0o777 if bad == "link.jpg" else stat.S_IFREG | 0o644), b"/etc/passwd"
        )
    with pytest.raises(FileError, match="nothing was unpacked") as e:
        m.unpack(archive)
    assert repr(entry(bad).filename) in str(e.value)
    assert contents(tmp_path).keys() == {"set/val.zip"}


def test_archives_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "val.zip"
    archive.write_bytes(zipped({"a.jpg": bytes(10_000), "b.txt": bytes(10_000)}))
    monkeypatch.setattr(m, "MAX_UNPACKED_BYTES", 19_999)
    with pytest.raises(FileError, match="2 entries of 20 kB unpacked are too many"):
        m.unpack(archive)
    monkeypatch.setattr(m, "MAX_UNPACKED_BYTES", 20_000)
    monkeypatch.setattr(m, "MAX_ENTRIES", 1)
    with pytest.raises(FileError, match="too many"):
        m.unpack(archive)
    monkeypatch.setattr(m, "MAX_ENTRIES", 2)
    assert m.unpack(archive) == [tmp_path / "val" / "a.jpg"]
    lying = bytearray(zipped({"a.jpg": bytes(10_000)}))
    for at in (lying.find(b"PK\x03\x04") + 22, lying.find(b"PK\x01\x02") + 24):
        lying[at : at + 4] = (5).to_bytes(4, "little")  # says that it is 5 bytes
    archive.write_bytes(lying)
    (tmp_path / "val" / "a.jpg").unlink()
    with pytest.raises(FileError, match="cannot be unpacked"):
        m.unpack(archive)
    assert contents(tmp_path).keys() == {"val.zip"}


def test_archives_that_are_broken(tmp_path: Path) -> None:
    archive = tmp_path / "val.zip"
    whole = zipped({"v/a.jpg": photo(0), "v/b.jpg": photo(1)})
    at = whole.find(photo(1)[:4]) if photo(1)[:4] in whole else len(whole) // 2
    damaged = bytearray(whole)
    damaged[at : at + 40] = bytes(40)
    encrypted = bytearray(whole)
    encrypted[whole.find(b"PK\x01\x02") + 8] |= 1
    for data in (b"", b"no zip", whole[: len(whole) // 2], bytes(damaged)):
        archive.write_bytes(data)
        with pytest.raises(FileError, match=r"val\.zip: cannot be unpacked"):
            m.unpack(archive)
    archive.write_bytes(encrypted)
    with pytest.raises(FileError, match="is encrypted; nothing was unpacked"):
        m.unpack(archive)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(archive, "w") as z:
        z.writestr("v/a.jpg", b"1")
        z.writestr("v/a.jpg", b"2")
    with pytest.raises(FileError, match=r"two entries 'v/a\.jpg'"):
        m.unpack(archive)
    assert not (tmp_path / "v" / "b.jpg").exists() and not list(tmp_path.rglob("*.part"))


def test_unpacking_goes_on_where_it_ended(tmp_path: Path) -> None:
    archive = tmp_path / "val.zip"
    archive.write_bytes(zipped({f"v/{n}": d for n, d in PHOTOS.items()}))
    first = tmp_path / "v" / next(iter(PHOTOS))
    first.parent.mkdir()
    first.write_bytes(PHOTOS[first.name])
    was = first.stat().st_mtime_ns
    assert len(m.unpack(archive)) == 5
    assert first.stat().st_mtime_ns == was
    assert {p.name: p.read_bytes() for p in first.parent.iterdir()} == PHOTOS
