"""A run over many photos: skip what is done, keep what is done, go on after a bad photo.

A photo is done when its json is there, whole, about this very file (size and time of change), made with the
same models and settings, and names the forms asked for as written with it. An old json goes before the other
forms are written and the new one comes last, so that a run that was stopped at any moment is taken up where it
ended. Photos go through the networks a few at a time; if a group fails, one by one. The loop takes them one by one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bodyloop.cli._common import Progress, complain, count_of, one_line
from bodyloop.cli._forms import FORMS, people_of, write_forms
from bodyloop.cli._given import Entry, GivenFile, NotNamed, read_people
from bodyloop.cli._photos import Photo, address, make_folder, place, refuse_foreign_results, remove_old
from bodyloop.errors import BodyloopError, InputError, MissingDependency, ModelError

if TYPE_CHECKING:
    from bodyloop.cli._forms import Answer
    from bodyloop.cli._models import Models
    from bodyloop.images import Image
    from bodyloop.people import People

TOGETHER = 4  # photos in memory at a time; their people share batches
_SAVED = "saved"  # key of a json's "run": which forms were written with it
_BAD = (BodyloopError, MemoryError, RuntimeError)  # what one photo may do wrong, the last if `_of_photo`
_FATAL = (ModelError, MissingDependency)  # wrong for every photo


@dataclass(frozen=True)
class Work:
    """What is done with the photos.

    Attributes:
        out: folder of the results.
        save: names of `FORMS`; json is always written.
        settings: what the result depends on besides models and photo.
        whole: the whole picture is one person.
        boxes, masks: files that name the people.
        threshold: least score of a box from a file.
    """

    out: Path
    save: frozenset[str]
    settings: dict[str, Any]
    whole: bool = False
    boxes: GivenFile | None = None
    masks: GivenFile | None = None
    threshold: float | None = None
    overwrite: bool = False


@dataclass
class Summary:
    """How a run went."""

    photos: int = 0
    done: int = 0
    skipped: int = 0
    people: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    left_out: int = 0
    stopped: bool = False
    results: Path | None = None

    def fail(self, what: str, why: str) -> None:
        """Report a photo that cannot be used, and go on."""
        self.failed.append((what, one_line(why)))
        complain(why)

    def line(self, out: Path) -> str:
        """The run in one line."""
        parts = [f"{self.done} done"]
        if self.skipped:
            parts.append(f"{self.skipped} skipped (done before)")
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        if self.left_out:
            parts.append(f"{self.left_out} left out (not in the file)")
        left = self.photos - self.done - self.skipped - len(self.failed) - self.left_out
        if left > 0:
            parts.append(f"{left} left")
        found = count_of(self.people, "person", "people")
        head = f"{count_of(self.photos, 'photo')}: {', '.join(parts)}; {found}; {self.seconds:.1f} s"
        return f"{head}; results in {self.results or out}"

    def to_json(self, out: Path) -> dict[str, Any]:
        """The run for programs."""
        return {
            "photos": self.photos, "done": self.done, "skipped": self.skipped, "people": self.people,
            "failed": [{"photo": one_line(p), "error": e} for p, e in self.failed],
            "left_out": self.left_out, "seconds": round(self.seconds, 3), "stopped": self.stopped,
            "out": one_line(str(out)),
            "results": None if self.results is None else one_line(str(self.results)),
        }  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One photo of a run, where its results go, and what they depend on."""

    photo: Photo
    name: str
    run: dict[str, Any]
    boxes: Entry | None
    masks: Entry | None


_Opened: TypeAlias = "tuple[Task, Image, People | None]"  # with the people that the caller named


class Run:
    """A run over photos; `go` does it."""

    def __init__(self, models: Models, work: Work) -> None:
        self.models = models
        self.work = work
        self.summary = Summary()
        self._finished: list[Task] = []

    def go(self, photos: Sequence[Photo], tell: Progress) -> Summary:
        """Work through the photos; a second call of the same kind goes on where this one ended."""
        s, begun = self.summary, time.monotonic()
        s.photos += len(photos)
        make_folder(self.work.out)
        refuse_foreign_results(self.work.out / "results.json")
        try:
            tasks = self._sorted_out(photos)
            tell(0, len(tasks))
            waiting, worked = iter(tasks), 0
            while window := list(islice(waiting, TOGETHER)):
                self._window(window)
                worked += len(window)
                tell(worked, len(tasks))
        except KeyboardInterrupt:
            s.stopped = True
        if self._finished:
            s.results = self.work.out / "results.json"
            s.people = write_results(s.results, self.work.out, self._in_order(photos))
        s.seconds = time.monotonic() - begun
        return s

    # ---- which photos --------------------------------------------------------------------------------------

    def _sorted_out(self, photos: Sequence[Photo]) -> list[Task]:
        """The photos that are to be done; those that are done or cannot be are counted."""
        paths = [p.path for p in photos]
        named = [None if f is None else f.match(paths) for f in (self.work.boxes, self.work.masks)]
        taken: set[str] = set()
        todo: list[Task] = []
        left_out: list[NotNamed] = []
        for i, photo in enumerate(photos):
            entries = [None if column is None else column[i] for column in named]
            wrong = next((e for e in entries if isinstance(e, InputError)), None)
            if isinstance(wrong, NotNamed) and not photo.named:
                left_out.append(wrong)
                continue
            if wrong is not None:
                self.summary.fail(photo.shown, str(wrong))
                continue
            boxes, masks = (e if isinstance(e, Entry) else None for e in entries)
            where = place(photo, self.work.out, taken)
            task = Task(photo, where.name, self._run_of(photo, boxes, masks), boxes, masks)
            if not self.work.overwrite and self._is_done(task, where.earlier.document):
                self.summary.skipped += 1
                self._finished.append(task)
            else:
                todo.append(task)
        self._leave_out(left_out, bool(todo or self._finished))
        return todo

    def _leave_out(self, photos: Sequence[NotNamed], others: bool) -> None:
        """Photos of a folder that the boxes file does not name are not meant; all of them is a mistake."""
        if photos and not others:
            raise InputError(f"{photos[0]}; and none of the other photos")
        if photos:
            complain(
                f"{count_of(len(photos), 'photo')} that the file of boxes or masks does not name left out"
            )
        self.summary.left_out = len(photos)

    def _run_of(self, photo: Photo, boxes: Entry | None, masks: Entry | None) -> dict[str, Any]:
        try:
            stat = photo.path.stat()
            size, changed = stat.st_size, stat.st_mtime_ns
        except (OSError, ValueError):  # reading it will say why
            size, changed = 0, 0
        settings = {
            **self.work.settings,
            "boxes": None if boxes is None else boxes.digest,
            "masks": None if masks is None else masks.digest,
        }
        return {
            "photo": address(photo.path, self.work.out),
            "bytes": size,
            "modified": changed,
            "settings": settings,
        }

    def _is_done(self, task: Task, document: dict[str, Any] | None) -> bool:
        if document is None:
            return False
        run = dict(document["run"])
        saved = run.pop(_SAVED, None)
        if run != task.run or not isinstance(saved, list) or not all(f in saved for f in self.work.save):
            return False  # forms that are there and not named are those of another run
        if document.get("model") != self.models.description:
            return False
        if not all((self.work.out / f"{task.name}{FORMS[f]}").is_file() for f in self.work.save):
            return False
        from bodyloop.storage import people_from_json

        try:
            people_from_json(document)
        except BodyloopError:
            return False
        return True

    # ---- the work ------------------------------------------------------------------------------------------

    def _window(self, tasks: Sequence[Task]) -> None:
        opened: list[_Opened] = []
        for task in tasks:
            try:
                image = self._read(task)
                opened.append((task, image, self._given(task, image)))
            except _BAD as e:
                self._fail(task, e)
        for (task, image, _), answer in zip(opened, self._answers(opened), strict=True):
            if answer is None:
                continue
            try:
                self._save(task, image, answer)
            except _FATAL:
                raise
            except _BAD as e:
                self._fail(task, e)
            else:
                self.summary.done += 1
                self._finished.append(task)

    def _read(self, task: Task) -> Image:
        """The photo, turned as it is looked at; unturned if that is what its labels were made on.

        COCO annotations tell a size. If the stored picture has it, it is taken as it is stored: where turning
        keeps the size (half turns, mirrors, squares) data sets mean the stored one. All else speaks of the
        picture as it is looked at, as our own results do.
        """
        from bodyloop.images import read

        entries = [e for e in (task.boxes, task.masks) if e is not None]
        told = {e.size for e in entries if e.kind == "coco" and e.size is not None}
        if told:
            stored = read(task.photo.path, orient=False)
            if stored.size in told:
                return stored
        return read(task.photo.path)

    def _given(self, task: Task, image: Image) -> People | None:
        """The people that the caller named, None if that is left to the detector."""
        import numpy as np

        from bodyloop.people import People

        w = self.work
        if w.whole:
            box = np.array([[0, 0, *image.size]], np.float32)
            return People(image.size, image.source, boxes=box)
        people: People | None = None
        if w.boxes is not None and task.boxes is not None:
            people = read_people(w.boxes, task.boxes, image, "boxes").replace(masks=None)
        if w.masks is not None and task.masks is not None:
            masked: People = read_people(w.masks, task.masks, image, "masks", boxes_needed=people is None)
            if people is None:
                people = masked
            elif len(people) != len(masked):
                boxes = "" if w.boxes is None else f" of {w.boxes.path}"
                raise InputError(f"{w.masks.path}: masks: {len(masked)} for the {len(people)} boxes{boxes}")
            else:
                people = people.replace(masks=masked.masks, mask_scores=masked.mask_scores)
        if people is not None and w.threshold is not None and people.scores is not None:
            people = people[people.scores >= w.threshold]
        return people

    def _fail(self, task: Task, e: Exception) -> None:
        """Report a photo that cannot be used, and go on; what is not the photo's fault is raised."""
        if not _of_photo(e):
            raise e
        self.summary.fail(task.photo.shown, _reason(e, task))

    def _answers(self, opened: Sequence[_Opened]) -> Iterator[Answer | None]:
        """What is found in each photo; None for a photo that is reported as failed."""
        if self.models.config is None:
            yield from self._posed(opened)
            return
        for task, image, people in opened:
            try:
                answer = self.models.loop.run(image, people)
            except _FATAL:
                raise
            except _BAD as e:
                self._fail(task, e)
                yield None
            else:
                yield answer

    def _posed(self, opened: Sequence[_Opened]) -> list[People | None]:
        """The people of each photo with poses; None for a photo that is reported as failed."""
        if not opened:
            return []
        try:
            return list(self._estimated(opened))
        except _FATAL:
            raise
        except _BAD as e:
            if len(opened) > 1 and _of_photo(e):
                return [people for one in opened for people in self._posed([one])]
            self._fail(opened[0][0], e)
            return [None]

    def _estimated(self, opened: Sequence[_Opened]) -> list[People]:
        """Find people where nobody named them, and estimate their poses."""
        images = [image for _, image, _ in opened]
        unknown = [i for i, (_, _, people) in enumerate(opened) if people is None]
        found = [people for _, _, people in opened]
        if unknown:
            for i, people in zip(unknown, self.models.detect([images[i] for i in unknown]), strict=True):
                found[i] = people
        return self.models.estimate(images, [p for p in found if p is not None])

    def _save(self, task: Task, image: Image, answer: Answer) -> None:
        """Write what is asked for, the json last: it says that the rest is there and belongs to it."""
        from bodyloop.people import Source
        from bodyloop.storage import atomic_write, people_to_json

        w, base = self.work, self.work.out / task.name
        make_folder(base.parent)
        people = people_of(answer)
        source = people.source or Source()
        people = people.replace(source=Source(task.photo.shown, source.image_id, source.frame))
        if "maps" not in w.save:  # the loop may need them, and they are large
            people = people.replace(maps=None)
        if w.save != {"json"}:
            remove_old(Path(f"{base}{FORMS['json']}"))
        write_forms(base, w.save, image, answer, people)
        run = {**task.run, _SAVED: sorted(w.save)}
        document = people_to_json(people, model=self.models.description, run=run)
        text = json.dumps(document, allow_nan=False, ensure_ascii=False)
        with atomic_write(f"{base}{FORMS['json']}") as file:
            file.write(text.encode())

    def _in_order(self, photos: Sequence[Photo]) -> list[Task]:
        at = {str(p.path): i for i, p in enumerate(photos)}
        return sorted(self._finished, key=lambda t: at[str(t.photo.path)])


def write_results(path: Path, out: Path, tasks: Sequence[Task]) -> int:
    """One COCO results file of the photos that are done; returns the number of people in it.

    Image ids are the data set's where a boxes file told them, else the photos' names where all are different
    numbers (as in COCO), else 1, 2, 3 ...; ``file_name`` stands behind. Keypoints are COCO's 17 where the
    model has them.
    """
    from bodyloop.storage import atomic_write

    count = 0
    with atomic_write(path) as file:
        file.write(b"[")
        for rows in _rows(out, tasks):
            for row in rows:
                text = json.dumps(row, allow_nan=False, ensure_ascii=False)
                file.write((",\n" if count else "\n").encode() + text.encode())
                count += 1
        file.write(b"\n]\n")
    return count


def _rows(out: Path, tasks: Sequence[Task]) -> Iterator[list[dict[str, Any]]]:
    from bodyloop.skeletons import COCO
    from bodyloop.storage import load

    numbers = [int(n) for t in tasks if (n := Path(t.name).name).isdecimal() and n.isascii() and len(n) < 16]
    by_name = len(set(numbers)) == len(tasks)
    for i, task in enumerate(tasks):
        people = load(out / f"{task.name}.json")
        known = None if people.source is None else people.source.image_id
        if people.skeleton is not None and set(COCO.keypoints) <= set(people.skeleton.keypoints):
            people = people.in_skeleton(COCO)
        image_id = known if known is not None else numbers[i] if by_name else i + 1
        # both first: a row can be long, and a later run looks for them at the beginning of the file
        first = {"image_id": image_id, "file_name": task.photo.shown}
        yield [{**first, **row} for row in people.to_coco(image_id)]


def _of_photo(e: Exception) -> bool:
    """Whether an error is one photo's: bad input, or too little memory for it on the machine or a device."""
    from bodyloop.loop import Failure

    return isinstance(e, BodyloopError) or Failure(0, None, e).out_of_memory


def _reason(e: Exception, task: Task) -> str:
    """What a photo's error says, with the photo's name in it."""
    text = str(e) or type(e).__name__
    if not isinstance(e, BodyloopError):
        text = "not enough memory for this photo; make it smaller"
    return text if task.photo.path.name in text else f"{task.photo.shown}: {text}"
