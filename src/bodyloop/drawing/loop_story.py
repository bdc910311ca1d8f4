"""What happened in a run of the loop, told so that it can be drawn.

Every pass becomes a `Chapter` in which everybody has one number for good: the place in the result, and for
those that were lost on the way numbers behind it. A chapter passes through `STATIONS`, each with a sentence.
The record says whom pose NMS left out, not in whose favour; that is the person in the nearest pose, found here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.loop.config import LoopConfig
from bodyloop.loop.merge import pose_similarity
from bodyloop.loop.record import SAME_POSE, LoopResult, Pass
from bodyloop.people import People
from bodyloop.roles import Prompt

STATIONS = {  # key, and what it is called
    "seen": "Look",
    "found": "Detect",
    "posed": "Pose",
    "judged": "Compare",
    "prompted": "Prompt",
    "refined": "Mask",
    "known": "Result",
}
ENDINGS = {
    "passes": "all passes were made",
    "settled": "the last pass found nobody new",
    "time": "the time was up",
}


_POSE = ("boxes", "keypoints", "map_scores", "quality", "presence", "visibility")


@dataclass(frozen=True)
class Dropped:
    """Somebody who was left out, by pose NMS unless ``reason`` tells of something else.

    Attributes:
        row: in ``posed`` of the pass, or among the people known before it.
        like: number of the person in the nearest pose, None if there is none to compare with.
        oks: how near, 0..1, as the loop measures it.
        reason: why, where nobody else is it.
    """

    row: int
    like: int | None
    oks: float
    reason: str = "lost in pose NMS"


@dataclass(frozen=True, eq=False)
class Chapter:
    """One pass with everybody's number.

    Attributes:
        record: the pass.
        known: the people before it, with their numbers.
        new: numbers of the people kept, as in ``record.kept``.
        after: numbers of ``record.people``.
        doubles: the found ones that were not kept.
        lost: the known ones that had to go.
    """

    record: Pass
    known: People
    numbers: tuple[int, ...]
    new: tuple[int, ...]
    after: tuple[int, ...]
    doubles: tuple[Dropped, ...]
    lost: tuple[Dropped, ...]

    def found_numbers(self) -> list[int | None]:
        """For each of ``record.detected`` the number, None for those not kept."""
        out: list[int | None] = [None] * len(self.record.detected)
        for row, number in zip(self.record.kept.tolist(), self.new, strict=True):
            out[row] = number
        return out

    def stations(self) -> list[str]:
        """Keys of the stations at which there is something to see."""
        p = self.record
        there = {
            "seen": True,
            "found": True,
            "posed": len(p.posed) > 0,
            "judged": len(self.doubles) + len(self.lost) > 0 or len(p.posed) > 0 < len(self.numbers),
            "prompted": any(x is not None for x in p.prompts),
            "refined": len(p.refined) > 0,
            "known": True,
        }
        return [key for key, shown in there.items() if shown]

    def text(self, key: str) -> str:
        """What happens at a station, in a sentence."""
        p = self.record
        if key == "seen":
            hidden = int(p.masked_out.present.sum())
            return f"{people_of(hidden)} masked out" if hidden else "the whole picture"
        if key == "found":
            verb = "given" if p.detected.scores is None else "found"
            return f"{people_of(len(p.detected))} {verb}" if len(p.detected) else "nobody found"
        if key == "posed":
            return f"poses of {people_of(len(p.posed))}"
        if key == "judged":
            parts = [f"{len(self.new)} new" if self.new else "nobody new"]
            parts += [f"{len(self.doubles)} in a pose that is taken"] if self.doubles else []
            parts += [f"{len(self.lost)} known before give way"] if self.lost else []
            return ", ".join(parts)
        if key == "prompted":
            sent = [x for x in p.prompts if x is not None]
            points = sum(len(x.points) for x in sent)
            skipped = len(p.prompts) - len(sent)
            tail = f", {people_of(skipped)} not sent" if skipped else ""
            return f"{points} points for {people_of(len(sent))}{tail}"
        if key == "refined":
            return f"masks of {people_of(len(p.refined))}"
        return f"{people_of(len(p.people))} known"


def chapters(result: LoopResult) -> list[Chapter]:
    """The passes of a result, in order.

    Raises:
        InputError: passes that do not follow from each other; it says which and why.
    """
    if not isinstance(result, LoopResult):
        raise InputError(f"draw_loop: expected a LoopResult, got {type(result).__name__}")
    serials: list[tuple[int, ...]] = [()]  # of the people known, before the first pass and after each
    new: list[tuple[int, ...]] = []
    count = 0
    for p in result.passes:
        _check(p, result, len(serials[-1]))
        gone = set(p.dropped_known.tolist())
        fresh = tuple(range(count, count + len(p.kept)))
        count += len(fresh)
        serials.append((*(s for i, s in enumerate(serials[-1]) if i not in gone), *fresh))
        new.append(fresh)
    if len(serials[-1]) != len(result.people):
        raise InputError(
            f"draw_loop: {len(result.people)} people in the result, {len(serials[-1])} after the last pass"
        )
    order = [*serials[-1], *(s for s in range(count) if s not in set(serials[-1]))]
    number = {serial: n for n, serial in enumerate(order)}
    before = People.empty(result.people.image_size)
    out = []
    for p, known, fresh, after in zip(result.passes, serials, new, serials[1:], strict=False):
        names = [tuple(number[s] for s in some) for some in (known, fresh, after)]
        out.append(_chapter(p, before, *names))
        before = p.people
    return out


def _check(p: Pass, result: LoopResult, known: int) -> None:
    here = f"draw_loop: pass {p.number}"
    size = result.people.image_size
    for name in ("detected", "posed", "refined", "people"):
        if getattr(p, name).image_size != size:
            raise InputError(f"{here}: {name} are of a picture of another size than the result, {size}")
    counts = {"detected": len(p.detected), "prompts": len(p.prompts), "refined": len(p.refined)}
    wanted = {"detected": len(p.posed), "prompts": len(p.kept), "refined": len(p.kept)}
    for name, n in counts.items():
        if n != wanted[name]:
            raise InputError(f"{here}: {n} {name} where {wanted[name]} are expected")
    for name, rows, n in (("kept", p.kept, len(p.posed)), ("dropped_known", p.dropped_known, known)):
        if len(set(rows.tolist())) != len(rows) or not all(0 <= r < n for r in rows.tolist()):
            raise InputError(f"{here}: {name} are not rows of {n} people: {rows.tolist()}")
    left = known - len(p.dropped_known) + len(p.kept)
    if len(p.people) != left:
        raise InputError(f"{here}: {len(p.people)} people after it, {left} are expected")


def _chapter(
    p: Pass, known: People, numbers: tuple[int, ...], new: tuple[int, ...], after: tuple[int, ...]
) -> Chapter:
    m, kept, gone = len(known), p.kept.tolist(), p.dropped_known.tolist()
    others = sorted(set(range(len(p.posed))) - set(kept))
    alike = _alike(known, p.posed)
    stay = [*(i for i in range(m) if i not in gone), *(m + i for i in kept)]
    names = [*(n for i, n in enumerate(numbers) if i not in gone), *new]

    def nearest(row: int, i: int, behind: int) -> Dropped:
        oks = alike[i, stay[behind:]]
        if not oks.size or oks.max() <= 0:
            return Dropped(row, None, 0.0)
        return Dropped(row, names[behind + int(oks.argmax())], float(oks.max()))

    alone = {row: reason for row in others if (reason := _alone(p.posed, row)) is not None}
    doubles = tuple(
        Dropped(row, None, 0.0, alone[row]) if row in alone else nearest(row, m + row, 0) for row in others
    )
    lost = tuple(nearest(row, row, m - len(gone)) for row in gone)  # only somebody new beats a known one
    return Chapter(p, known, numbers, new, after, doubles, lost)


def _alone(posed: People, row: int) -> str | None:
    """Why somebody was dropped whom nobody else stood for."""
    history = () if posed.provenance is None else posed.provenance[row].changes
    reasons = [c.why for c in history if c.what == "dropped" and not c.why.startswith(SAME_POSE)]
    return reasons[-1] if reasons else None


def _alike(known: People, posed: People) -> npt.NDArray[np.float64]:
    """(N, N) OKS between everybody known and found, as the loop measures it, the larger of both directions."""
    both = [poses_of(p) for p in (known, posed) if len(p)]
    n = len(known) + len(posed)
    if not both or any(p.boxes is None or p.keypoints is None or p.skeleton is None for p in both):
        return np.zeros((n, n))
    m, _ = pose_similarity(People.concat(both), LoopConfig())
    return np.maximum(m, m.T)


def poses_of(people: People) -> People:
    """Poses and boxes only, so that people of all passes can be joined."""
    columns = {name: getattr(people, name) for name in _POSE}
    return People(people.image_size, skeleton=people.skeleton, **columns)


def people_of(n: int) -> str:
    """``1 person``, ``3 people``."""
    return f"{n} person" if n == 1 else f"{n} people"


def why(dropped: Dropped, before: Sequence[int]) -> str:
    """Why somebody was dropped; ``before`` are the numbers of the people known before the pass."""
    if dropped.like is None:
        return dropped.reason
    known = "known already" if dropped.like in before else "new in this pass"
    return f"in the pose of person {dropped.like}, {known} (OKS {dropped.oks:.2f})"


def joints_at(prompt: Prompt, person: People) -> list[str]:
    """For each point of a prompt the name of the person's keypoint that lies there, "" for another's."""
    if person.keypoints is None or person.skeleton is None:
        return [""] * len(prompt.points)
    apart = np.abs(prompt.points[:, None] - person.keypoints[0][None]).max(axis=-1)
    names = person.skeleton.keypoints
    return [
        names[int(np.nanargmin(row))].replace("_", " ") if np.nanmin(row, initial=9) < 0.01 else ""
        for row in apart
    ]
