"""The loop as one HTML page to walk through: nothing is loaded from outside, and no text can become code.

The page is ``replay.html`` with the script ``replay.js``; here the run becomes the data that they show. The photo
is in it once (JPEG); masks are SVG paths, poses numbers, each stored once however often it is shown. The page's
own policy admits this script, by its checksum, and no other.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bodyloop.drawing import palette
from bodyloop.drawing.figure import Look, line_width, looks
from bodyloop.drawing.loop_story import ENDINGS, STATIONS, Chapter, joints_at, people_of, why
from bodyloop.drawing.page import legible, theme
from bodyloop.drawing.sheets import shrunk
from bodyloop.drawing.style import Style
from bodyloop.images import Image
from bodyloop.loop.record import LoopResult
from bodyloop.masks import Masks
from bodyloop.people import Change, People
from bodyloop.roles import Prompt

MAX_PHOTO = 1600  # px of the photo's longer side in the page
QUALITY = 82
_WORDS = {Look.CERTAIN: "certain", Look.HIDDEN: "hidden", Look.ABSENT: "absent"}


def replay(
    image: Image, result: LoopResult, chapters: Sequence[Chapter], style: Style, title: str | None = None
) -> str:
    """The page as text. ``title`` is the name of the photo's file unless given."""
    name = title if title is not None else Path(image.path).name if image.path else "A photo"
    seconds = sum(sum(c.record.seconds.values()) for c in chapters)
    facts = [
        f"{len(chapters)} pass{'es' if len(chapters) != 1 else ''}",
        people_of(len(result.people)),
        *([f"{seconds:.2f} s"] if seconds else []),
        f"{ENDINGS[result.ended]}",
    ]
    script = _part("replay.js")
    data = json.dumps(_Teller(image, result, style).tell(chapters), separators=(",", ":"))
    w, h = image.size
    parts = {
        "title": html.escape(legible(name)),
        "subtitle": html.escape(" · ".join(facts)),
        "policy": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "light": theme(1),
        "dark": theme(2),
        "photo": _jpeg(image),
        "width": str(w),
        "height": str(h),
        "version": html.escape(version("bodyloop")),
        "data": data.replace("<", "\\u003c").replace(">", "\\u003e"),
        "script": script,
    }
    pieces = _part("replay.html").split("@@")  # text, name, text, name, ... text
    return "".join(parts[p] if i % 2 else p for i, p in enumerate(pieces))


@cache
def _part(name: str) -> str:
    return resources.files("bodyloop.drawing").joinpath(name).read_text("utf-8").replace("\r\n", "\n")


def _jpeg(image: Image) -> str:
    import PIL.Image

    pixels = shrunk(image.pixels, min(1.0, MAX_PHOTO / max(image.size)))
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


@dataclass
class _Subject:
    """A person, or a find that was dropped: what its card in the page says."""

    name: str
    short: str
    colours: list[str]
    found: int  # pass
    counts: bool  # is in the result
    facts: dict[str, str] = field(default_factory=dict)
    history: list[tuple[int, str]] = field(default_factory=list)


class _Teller:
    """Makes the page's data; masks and poses that occur again are told once."""

    def __init__(self, image: Image, result: LoopResult, style: Style) -> None:
        self.image, self.result, self.style = image, result, style
        self.paths: dict[str, int] = {}
        self.poses: dict[str, int] = {}
        self.subjects: dict[Any, _Subject] = {}
        self.areas: dict[int, float] = {}  # of a person's mask as last told
        self.told: dict[int, set[Change]] = {}  # what of a person's history has been told
        self.tolerance = max(0.6, max(image.size) / 1600)

    def tell(self, chapters: Sequence[Chapter]) -> dict[str, Any]:
        """Everything that the page shows, ready for JSON."""
        people = self.result.people
        for n in range(len(people)):
            self._person(n, counts=True)
        steps: list[dict[str, Any]] = []
        for chapter in chapters:
            for key in chapter.stations():
                head = {"pass": chapter.record.number, "key": key, "title": STATIONS[key]}
                steps.append({**head, "text": chapter.text(key), **self._shown(chapter, key)})
        for n in range(len(people)):
            self._final(n)
        at = {key: i for i, key in enumerate(self.subjects)}
        for step in steps:
            for kind in ("black", "boxes", "masks", "poses", "points"):
                for row in step.get(kind, ()):
                    row[0] = at[row[0]]
        skeleton = people.skeleton or next((c.record.posed.skeleton for c in chapters), None)
        return {
            "size": list(self.image.size),
            "links": [] if skeleton is None else [list(pair) for pair in skeleton.links],
            "sides": [] if skeleton is None else [_side(k) for k in skeleton.keypoints],
            "who": [vars(s) | {"facts": list(s.facts.items())} for s in self.subjects.values()],
            "paths": list(self.paths),
            "poses": [json.loads(p) for p in self.poses],
            "steps": steps,
            "passes": [_summary(c) for c in chapters],
        }

    # who there is

    def _person(self, n: int, counts: bool = False, found: int = 0) -> _Subject:
        if n not in self.subjects:
            c = palette.of_person(n)
            colours = [_css(c.left), _css(c.right), _css(c.middle)]
            self.subjects[n] = _Subject(f"Person {n}", str(n), colours, found, counts)
        return self.subjects[n]

    def _double(self, chapter: Chapter, row: int) -> tuple[int, int]:
        key = (chapter.record.number, row)
        if key not in self.subjects:
            dropped = next(d for d in chapter.doubles if d.row == row)
            reason = why(dropped, chapter.numbers)
            g = palette.GREY
            colours = [_css(g.left), _css(g.right), _css(g.middle)]
            short = "" if dropped.like is None else f"= {dropped.like}"
            name = f"Find {sum(not isinstance(k, int) for k in self.subjects) + 1}"
            told = _Subject(name, short, colours, key[0], False)
            told.history.append((key[0], f"dropped: {reason}"))
            told.facts["Dropped"] = reason
            _box_facts(told, chapter.record.detected, row)
            self.subjects[key] = told
        return key

    def _found_keys(self, chapter: Chapter) -> list[Any]:
        numbers = chapter.found_numbers()
        return [self._double(chapter, row) if n is None else n for row, n in enumerate(numbers)]

    def _said(self, people: People, row: int, n: int, what: str, pass_number: int | None = None) -> str:
        """The last change of a kind in somebody's history, in words; it is not told again at the end."""
        changes = () if people.provenance is None else people.provenance[row].changes
        for change in reversed(changes):
            if change.what == what and pass_number in (None, change.pass_number):
                self.told.setdefault(n, set()).add(change)
                return _words(change)
        return what

    # what a station shows

    def _shown(self, chapter: Chapter, key: str) -> dict[str, Any]:
        p = chapter.record
        if key == "seen":
            return {"black": self._masks(chapter.numbers, p.masked_out)}
        if key == "found":
            return self._found(chapter)
        if key == "posed":
            return {"poses": self._poses(self._found_keys(chapter), p.posed)}
        if key == "judged":
            return self._judged(chapter)
        if key == "prompted":
            return self._prompted(chapter)
        if key == "refined":
            return self._refined(chapter)
        self._remember(chapter)
        return {
            "masks": self._masks(chapter.after, p.people.masks),
            "poses": self._poses(chapter.after, p.people),
        }

    def _found(self, chapter: Chapter) -> dict[str, Any]:
        p, keys = chapter.record, self._found_keys(chapter)
        for row, n in enumerate(chapter.found_numbers()):
            if n is not None:
                person = self._person(n)
                person.found = p.number
                _box_facts(person, p.detected, row)
                score = person.facts.get("Box score")
                said = self._said(p.detected, row, n, "found")
                person.history.append((p.number, said if score is None else f"{said}, box score {score}"))
        return {
            "black": self._masks(chapter.numbers, p.masked_out),
            "masks": self._masks(keys, p.detected.masks),
            "boxes": self._boxes(keys, p.detected),
        }

    def _judged(self, chapter: Chapter) -> dict[str, Any]:
        p, gone = chapter.record, {d.row: d for d in chapter.lost}
        for row, dropped in gone.items():
            reason = why(dropped, chapter.numbers)
            lost = self._person(chapter.numbers[row])
            lost.facts["Dropped"] = reason
            lost.history.append((p.number, f"dropped: {reason}"))
        poses = self._poses(chapter.numbers, chapter.known)
        return {"poses": poses + self._poses(self._found_keys(chapter), p.posed), "gone": sorted(
            i for i, n in enumerate(self.subjects) if n in {chapter.numbers[r] for r in gone}
        )}  # fmt: skip

    def _prompted(self, chapter: Chapter) -> dict[str, Any]:
        p = chapter.record
        shown: dict[str, list[Any]] = {"boxes": [], "masks": [], "points": []}
        for i, (n, prompt) in enumerate(zip(chapter.new, p.prompts, strict=True)):
            person = self._person(n)
            if prompt is None:
                person.history.append((p.number, "not sent to the segmenter"))
                continue
            names = joints_at(prompt, p.refined[i])
            person.history.append((p.number, _asked(prompt, names)))
            for rank, (at, label, name) in enumerate(
                zip(prompt.points.tolist(), prompt.labels.tolist(), names, strict=True), start=1
            ):
                shown["points"].append([n, *_short(at), label, rank, name or "another person's"])
            if prompt.box is not None:
                shown["boxes"].append([n, *_short(prompt.box), ""])
            if prompt.mask is not None:
                shown["masks"] += self._masks([n], prompt.mask)
        return shown

    def _refined(self, chapter: Chapter) -> dict[str, Any]:
        p = chapter.record
        masks, first = p.refined.masks, p.detected.masks
        shown = {"masks": self._masks(chapter.new, masks)}
        if masks is None:
            return shown
        for i, n in enumerate(chapter.new):
            said = [_px(masks.areas[i])]
            if p.refined.mask_scores is not None and np.isfinite(p.refined.mask_scores[i]):
                said.append(f"the segmenter's own score {p.refined.mask_scores[i]:.2f}")
            row = int(p.kept[i])
            if first is not None and first.present[row]:
                said.append(f"IoU with the detector's {float(masks[i].iou(first[row])[0, 0]):.2f}")
            drawn = self._said(p.refined, i, n, "mask", p.number)
            self._person(n).history.append((p.number, f"{drawn}: {', '.join(said)}"))
            self.areas[n] = float(masks.areas[i])
        return shown

    def _remember(self, chapter: Chapter) -> None:
        """Masks of people known before that this pass has changed."""
        masks = chapter.record.people.masks
        if masks is None:
            return
        for i, n in enumerate(chapter.after):
            now = float(masks.areas[i])
            before = self.areas.get(n, now)
            if now != before:
                self._person(n).history.append((chapter.record.number, f"mask {_px(before)} → {_px(now)}"))
            self.areas[n] = now

    def _final(self, n: int) -> None:
        """Facts of a person of the result, and what the loop itself says about it."""
        people, person = self.result.people, self._person(n)
        if people.keypoints is not None:
            look = self._looks(people, n)
            count = [(int((look == v).sum()), word) for v, word in _WORDS.items()]
            person.facts["Keypoints"] = ", ".join(f"{c} {word}" for c, word in count if c)
        scores = people.keypoint_scores
        if scores is not None and np.isfinite(scores[n]).any():
            person.facts["Keypoint score"] = f"{np.nanmean(scores[n]):.2f} on average"
        if people.mask_scores is not None and np.isfinite(people.mask_scores[n]):
            person.facts["Mask score"] = f"{people.mask_scores[n]:.2f}"
        if people.masks is not None and people.masks.present[n]:
            w, h = people.image_size
            area = people.masks.areas[n]
            person.facts["Mask"] = f"{_px(area)}, {100 * area / (w * h):.1f} % of the photo"
        for name, column in people.extra.items():
            if column.ndim == 1 and column.dtype.kind in "fiub":
                person.facts[legible(name).capitalize()] = f"{float(column[n]):.2f}"
        if people.provenance is not None:
            told = people.provenance[n]
            person.found = told.pass_number or person.found
            for change in told.changes:
                if change not in self.told.get(n, ()):
                    person.history.append((change.pass_number or person.found, _words(change)))
            person.history.sort(key=lambda h: h[0])

    # shapes

    def _boxes(self, keys: Sequence[Any], people: People) -> list[list[Any]]:
        if people.boxes is None:
            return []
        scores = people.scores
        known = np.zeros(len(people), bool) if scores is None else np.isfinite(scores)
        return [
            [key, *_short(people.boxes[i]), f"{scores[i]:.2f}" if scores is not None and known[i] else ""]
            for i, key in enumerate(keys)
            if np.isfinite(people.boxes[i]).all()
        ]

    def _masks(self, keys: Sequence[Any], masks: Masks | None) -> list[list[Any]]:
        if masks is None:
            return []
        present = np.flatnonzero(masks.present).tolist()
        return [[keys[i], self._path(masks, i)] for i in present]

    def _path(self, masks: Masks, i: int) -> int:
        """Number of the mask's outline (with its holes) among the paths."""
        import cv2

        x, y, cut = masks.cut(i)
        found = cv2.findContours(cut.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[-2]
        parts = []
        for contour in found:
            line = np.asarray(cv2.approxPolyDP(contour, self.tolerance, True)).reshape(-1, 2)
            line = line + np.array([x, y])
            steps = " ".join(f"{dx} {dy}" for dx, dy in np.diff(line, axis=0).tolist())
            parts.append(f"M{line[0, 0]} {line[0, 1]}l{steps or '0.1 0'}z")
        return self.paths.setdefault("".join(parts), len(self.paths))

    def _poses(self, keys: Sequence[Any], people: People) -> list[list[Any]]:
        if people.keypoints is None:
            return []
        return [[key, self._pose(people, i)] for i, key in enumerate(keys)]

    def _pose(self, people: People, i: int) -> int:
        """Number of the pose among the poses: width of its limbs, then x, y and look of each keypoint."""
        assert people.keypoints is not None
        points, look = people.keypoints[i], self._looks(people, i)
        known = points[look >= 0] if people.boxes is None else people.boxes[i].reshape(2, 2)
        extent = float(np.ptp(known, axis=0).max()) if len(known) else 0.0
        width = line_width(extent, self.image.size, self.style.line)
        rows = [[*_short(p), int(v)] if v >= 0 else None for p, v in zip(points, look, strict=True)]
        return self.poses.setdefault(json.dumps([round(width, 2), rows]), len(self.poses))

    def _looks(self, people: People, i: int) -> np.ndarray:
        style, scores = self.style, people.keypoint_scores
        columns = (people.presence, people.visibility, scores)
        assert people.keypoints is not None
        return looks(
            people.keypoints[i], *(None if c is None else c[i] for c in columns),
            presence_at=style.presence_at, visibility_at=style.visibility_at, score_at=style.score_at,
        )  # fmt: skip


def _summary(chapter: Chapter) -> list[str]:
    """A pass in a line, and where its time went."""
    p = chapter.record
    parts = [f"{len(p.detected)} found", f"{len(p.kept)} new"]
    parts += [f"{len(chapter.lost)} given up"] if chapter.lost else []
    times = [f"{name} {1000 * t:.0f} ms" for name, t in p.seconds.items()]
    return [f"Pass {p.number}", ", ".join(parts), ", ".join(times)]


def _box_facts(told: _Subject, detected: People, row: int) -> None:
    if detected.scores is not None and np.isfinite(detected.scores[row]):
        told.facts["Box score"] = f"{detected.scores[row]:.2f}"
    if detected.boxes is not None and np.isfinite(detected.boxes[row]).all():
        w, h = detected.boxes[row, 2:] - detected.boxes[row, :2]
        told.facts["Box"] = f"{w:.0f} × {h:.0f} px"


def _asked(prompt: Prompt, names: Sequence[str]) -> str:
    """What was sent to the segmenter, in words."""
    on = [n for n, label in zip(names, prompt.labels.tolist(), strict=True) if label]
    parts = [f"{len(on)} point{'s' if len(on) != 1 else ''}"] if on else []
    if any(on):
        parts[0] += f" ({', '.join(n for n in on if n)})"
    off = len(prompt.points) - len(on)
    parts += [f"{off} not on it"] if off else []
    parts += ["box"] if prompt.box is not None else []
    parts += ["a first mask"] if prompt.mask is not None else []
    parts += ["maps"] if prompt.maps is not None else []
    parts += [f"{len(prompt.neighbours)} neighbours"] if prompt.neighbours is not None else []
    return f"sent to the segmenter: {', '.join(parts) or 'nothing'}"


def _short(numbers: Any) -> list[float]:
    return [round(float(v), 1) for v in numbers]


def _words(change: Change) -> str:
    """``mask drawn from 3 points``: a change as it is told."""
    return legible(f"{change.what} {change.why}".strip())


def _px(area: float) -> str:
    return f"{area:,.0f} px".replace(",", " ")


def _side(keypoint: str) -> int:
    return {"left": 0, "right": 1}.get(keypoint.partition("_")[0], 2)


def _css(colour: palette.RGB) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
