"""The loop over one picture, pass by pass: detect, estimate, thin out, segment; what is known grows.

`OnePicture` holds what passes share: the people known, what the segmenter keeps of the picture (made once,
whatever the number of people and passes), and the clock. Which numbers decide stands in `LoopConfig`, how
prompts, poses and masks are compared in the sibling modules.

Source: BBoxMaskPose (ICCV 2025) and BBoxMaskPose v2 (2026).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bodyloop.geometry import suppress
from bodyloop.images import Image
from bodyloop.loop import answers
from bodyloop.loop.config import LoopConfig
from bodyloop.loop.consistency import better_mask, scored
from bodyloop.loop.joints import confidences
from bodyloop.loop.merge import Lost, changed, claims, exclusive, masked_out, pose_nms, pose_similarity
from bodyloop.loop.prompts import Choice, choose, too_small
from bodyloop.loop.record import SAME_POSE, Ending, LoopResult, Pass
from bodyloop.masks import Masks
from bodyloop.people import Change, People, Provenance
from bodyloop.roles import Detector, Encoded, MaskResult, PoseEstimator, Prompt, Segmenter

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Role = Literal["detect", "pose", "segment"]
CROPPED = 1.5  # of a box's sides: what is cut out to be encoded by itself


@dataclass(frozen=True)
class Roles:
    """Who plays: the second detector looks from the second pass on, None: the first does."""

    detector: Detector
    pose: PoseEstimator
    segmenter: Segmenter
    second_detector: Detector | None = None


class Watch:
    """Seconds spent in each role; the rest of a pass is the loop's own."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._begun = clock()
        self._spent: dict[str, float] = dict.fromkeys(("detect", "pose", "segment"), 0.0)

    @contextlib.contextmanager
    def of(self, role: Role) -> Iterator[None]:
        """Count the time inside to a role."""
        begun = self.clock()
        yield
        self._spent[role] += self.clock() - begun

    def seconds(self) -> dict[str, float]:
        """By role, and "loop" for everything else since the watch was made."""
        return {**self._spent, "loop": self.clock() - self._begun - sum(self._spent.values())}


class OnePicture:
    """One run of the loop; used once.

    Args:
        given: people to begin with in place of the first detection, or None. Nobody takes their place.
        clock: seconds, from anywhere.
    """

    def __init__(
        self, roles: Roles, config: LoopConfig, image: Image, given: People | None, clock: Callable[[], float]
    ) -> None:
        self.roles, self.config, self.image, self.clock = roles, config, image, clock
        self.given = None if given is None else answers.sound(given, image, "given people")
        self.known: People | None = None
        self.dropped: list[People] = []
        self.encoded: Encoded | None = None
        self.watch = Watch(clock)

    def run(self) -> LoopResult:
        """All passes."""
        c, begun = self.config, self.clock()
        passes: list[Pass] = []
        ended: Ending = "passes"
        for number in range(1, c.passes + 1):
            if passes and c.seconds is not None and self.clock() - begun >= c.seconds:
                ended = "time"
                break
            passes.append(self._pass(number))
            if self._settled(passes[-1]):
                ended = "settled"
                break
        people, begun = self._everybody(), self.clock()
        if c.score_consistency and people.skeleton is not None:
            people = scored(people, c)
            spent = passes[-1].seconds
            passes[-1] = replace(passes[-1], seconds={**spent, "loop": spent["loop"] + self.clock() - begun})
        return LoopResult(people, tuple(passes), ended, People.concat(self.dropped) if self.dropped else None)

    def _settled(self, last: Pass) -> bool:
        """Whether the next pass could only repeat the last: nobody new, and the same detector looks again."""
        if not self.config.stop_when_settled or self.config.parity.run_all_passes or len(last.kept):
            return False
        return last.number > 1 or (self.given is None and self.roles.second_detector is None)

    def _everybody(self) -> People:
        if self.known is not None:
            return self.known
        skeleton = getattr(self.roles.pose, "skeleton", None)
        nobody = People.empty(self.image.size, skeleton, self.image.source)
        none = np.zeros(0, np.float32)
        return nobody.replace(masks=Masks.empty(0, self.image.size), mask_scores=none, provenance=())

    # ---------------------------------------------------------------------------------------- one pass

    def _pass(self, number: int) -> Pass:
        self.watch = Watch(self.clock)
        known = self.known
        hidden = Masks.empty(0, self.image.size) if known is None or known.masks is None else known.masks
        found = self._detect(number, hidden)
        if not len(found):
            return self._nobody_new(number, hidden, found, found)
        posed, kept, lost_known = self._thin_out(self._pose(found), number)
        if not len(kept):
            return self._nobody_new(number, hidden, found, posed)
        stays = np.setdiff1d(np.arange(0 if known is None else len(known)), lost_known)
        old = None if known is None or not len(stays) else known[stays]
        new, old, prompts = self._refine(posed[kept], old, number)
        self.known = new if old is None else People.concat([old, new])
        return Pass(
            number, hidden, found, posed, kept, lost_known, prompts, new, self.known, self.watch.seconds()
        )

    def _nobody_new(self, number: int, hidden: Masks, found: People, posed: People) -> Pass:
        none = np.zeros(0, np.int64)
        known = self._everybody()
        return Pass(number, hidden, found, posed, none, none, (), posed[none], known, self.watch.seconds())

    def _detect(self, number: int, hidden: Masks) -> People:
        """Who is looked at in this pass: given, or found beside those painted black."""
        c, r = self.config, self.roles
        if number == 1 and self.given is not None:
            told = Provenance(number, (Change("found", "given by the caller", number),))
            return self.given.replace(provenance=(told,) * len(self.given))
        second = number > 1 and r.second_detector is not None
        who = r.second_detector if second and r.second_detector is not None else r.detector
        picture = masked_out(self.image, hidden)
        with self.watch.of("detect"):
            answer = who.detect([picture])
        people = answers.detected(answer, picture, "second detector" if second else "detector")
        assert people.boxes is not None and people.scores is not None  # checked
        above = np.flatnonzero(people.scores > c.detector_threshold)
        best = suppress(people.boxes[above], people.scores[above], c.detector_nms, inclusive=True)
        told = Provenance(number, (Change("found", f"by the {'second ' * second}detector", number),))
        return people[above[best]].replace(provenance=(told,) * len(best))

    def _pose(self, people: People) -> People:
        with self.watch.of("pose"):
            answer = self.roles.pose.estimate([self.image], [people])
        known = None if self.known is None else self.known.skeleton
        return answers.posed(answer, people, self.image, known)

    def _thin_out(self, posed: People, number: int) -> tuple[People, Ints, Ints]:
        """Pose NMS over everybody: the new people with their histories, which of them stay, which known go.

        Who is new but looks like nobody neither stays nor takes anybody's place.
        """
        c, known = self.config, self.known
        m = 0 if known is None else len(known)
        everybody = posed if known is None else People.concat([_bare(known), _bare(posed)])
        alike, strength = pose_similarity(everybody, c)
        certain = 0 if self.given is None else len(self.given)  # they stand first, and stay
        alike[:certain, :certain] = 0
        strength[: m if c.prefer_known else certain] += 1 + strength.max(initial=0)
        nobody = self._nobodies(posed, number)
        alike[[m + i for i in nobody]] = alike[:, [m + i for i in nobody]] = 0
        lost = pose_nms(alike, strength, c.pose_nms, whole_groups=c.parity.remove_whole_groups)
        gone_new = {i - m: _drop(why, m, number) for i, why in lost.items() if i >= m} | nobody
        kept = np.setdiff1d(np.arange(len(posed)), list(gone_new))
        posed = _told(posed, gone_new)
        if gone_new:
            self.dropped.append(_bare(posed[sorted(gone_new)]))
        gone_old = {i: why for i, why in lost.items() if i < m} if len(kept) else {}
        if known is not None and gone_old:
            known = _told(known, {i: _drop(why, m, number) for i, why in gone_old.items()})
            self.dropped.append(_bare(known[sorted(gone_old)]))
        return posed, kept, np.array(sorted(gone_old), np.int64)

    def _nobodies(self, posed: People, number: int) -> dict[int, Change]:
        """Who was found beside people painted black and has too poor a pose to be one."""
        least = self.config.least_quality
        if number == 1 or not least:
            return {}
        quality = np.clip(confidences(posed), 0, None).mean(axis=1)
        poor = np.flatnonzero(quality < least).tolist()
        return {
            i: Change("dropped", f"a pose like nobody's (quality {quality[i]:.2f})", number) for i in poor
        }

    # -------------------------------------------------------------------------------- masks, and poses again

    def _refine(
        self, new: People, old: People | None, number: int
    ) -> tuple[People, People | None, tuple[Prompt | None, ...]]:
        """Masks from poses, and ``repose`` times poses from masks and masks from poses."""
        n, before = len(new), _masks_of(new, old)
        new, old, prompts = self._segment(new, old, number)
        for _ in range(self.config.repose):
            everybody = new if old is None else People.concat([new, old])
            todo = self._unsettled(everybody, n, before)
            if not todo.any():
                break
            before = _masks_of(everybody)
            again = self._pose(everybody[todo])
            again = _told(
                again, dict.fromkeys(range(len(again)), Change("pose", "estimated again by its mask", number))
            )
            rest = None if todo.all() else everybody[~todo]
            again, rest, sent = self._segment(again, rest, number)
            places = np.argsort(np.r_[np.flatnonzero(todo), np.flatnonzero(~todo)])
            everybody = (again if rest is None else People.concat([again, rest]))[places]
            latest = dict(zip(np.flatnonzero(todo).tolist(), sent, strict=False))
            prompts = tuple(latest.get(i, p) for i, p in enumerate(prompts))
            new, old = everybody[:n], None if old is None else everybody[n:]
        return new, old, prompts

    def _unsettled(self, everybody: People, n: int, before: Masks) -> Bools:
        """(N,) whose pose is to be estimated again; the first ``n`` are new."""
        c = self.config
        todo = ~too_small(everybody, c)
        if c.skip_settled:
            todo &= changed(before, _masks_of(everybody))
        if c.parity.keep_old_masks:
            todo[n:] = False
        return todo

    def _segment(
        self, people: People, others: People | None, number: int
    ) -> tuple[People, People | None, tuple[Prompt | None, ...]]:
        """Refined masks of ``people``; the others make room for them."""
        c, n = self.config, len(people)
        choices = choose(people, others, c)
        before = _masks_of(people, others)
        scores = np.full(len(before), np.nan, np.float32)
        if others is not None and others.mask_scores is not None:
            scores[n:] = others.mask_scores
        if people.mask_scores is not None:
            scores[:n] = people.mask_scores
        drawn = [before[i] for i in range(len(before))]
        notes = {i: Change("mask", f"kept: {x.why}", number) for i, x in enumerate(choices[:n])}
        sent = [i for i, x in enumerate(choices) if x.prompt is not None]
        answer = self._ask([choices[i].prompt for i in sent])
        for i, mask, score in zip(sent, answer.masks, answer.scores, strict=True):
            drawn[i], why = self._taken(before[i], mask, choices[i])
            scores[i] = score
            if i < n:
                notes[i] = Change("mask", why, number)
        masks = Masks.concat(drawn)
        if c.exclusive and len(masks) > 1:
            masks = exclusive(masks, claims([p for p in (people, others) if p is not None], scores))
        people = _told(people, notes, masks=masks[:n], mask_scores=scores[:n])
        if others is not None and not c.parity.keep_old_masks:
            room = np.flatnonzero(changed(before[n:], masks[n:])).tolist()
            made = dict.fromkeys(room, Change("mask", "made room for somebody found later", number))
            others = _told(others, made, masks=masks[n:], mask_scores=scores[n:])
        return people, others, tuple(x.prompt for x in choices[:n])

    def _taken(self, before: Masks, mask: Masks, choice: Choice) -> tuple[Masks, str]:
        """The mask that a person gets, of the one it has and the one drawn, and why."""
        c = self.config
        if not mask.present[0] and before.present[0] and not c.parity.empty_prompts:
            return before, f"kept: the segmenter drew nothing for {choice.why}"
        if c.consistency_choice and better_mask(before, mask, *choice.evidence) is before:
            return before, "kept: it agrees better with the pose than the one drawn"
        return mask, f"drawn from {choice.why}"

    def _ask(self, prompts: list[Prompt | None]) -> MaskResult:
        """The segmenter's masks in the picture; with ``crop`` each from the surroundings of its box alone."""
        asked = [p for p in prompts if p is not None]
        size = self.image.size
        if not asked:
            return MaskResult(Masks.empty(0, size), np.zeros(0, np.float32))
        with self.watch.of("segment"):
            if not self.config.crop:
                if self.encoded is None:
                    self.encoded = self._encode(self.image)
                answer = self.roles.segmenter.segment(self.encoded, asked)
                return answers.segmented(answer, len(asked), size)
            each = [self._cropped(p) for p in asked]
        return MaskResult(Masks.concat([m.masks for m in each]), np.concatenate([m.scores for m in each]))

    def _cropped(self, prompt: Prompt) -> MaskResult:
        w, h = self.image.size
        x1, y1, x2, y2 = (0, 0, w, h) if prompt.box is None else _surroundings(prompt.box, (w, h))
        image = replace(self.image, pixels=np.ascontiguousarray(self.image.pixels[y1:y2, x1:x2]))
        at = np.array([x1, y1], np.float32)
        moved = Prompt(
            prompt.points - at, prompt.labels, None if prompt.box is None else prompt.box - np.tile(at, 2)
        )
        answer = self.roles.segmenter.segment(self._encode(image), [moved])
        answer = answers.segmented(answer, 1, image.size)
        x, y, bits = answer.masks.cut(0)
        return MaskResult(Masks.from_cuts([(x + x1, y + y1, bits)], (w, h)), answer.scores)

    def _encode(self, image: Image) -> Encoded:
        if self.config.parity.bgr_to_segmenter:
            image = replace(image, pixels=np.ascontiguousarray(image.pixels[..., ::-1]))
        return answers.encoded(self.roles.segmenter.encode([image]), image)


def _surroundings(box: npt.NDArray[np.float32], size: tuple[int, int]) -> list[int]:
    """A box half as large again about its centre, in whole px within the picture."""
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * np.float32(CROPPED / 2)
    low = np.clip(np.rint(centre - half), 0, np.array(size) - 1)  # a pixel at least
    high = np.clip(np.rint(centre + half), low + 1, size)
    return [int(v) for v in (*low, *high)]


def _masks_of(people: People, others: People | None = None) -> Masks:
    """The masks of everybody, empty ones for people without."""
    parts = [p for p in (people, others) if p is not None]
    return Masks.concat([Masks.empty(len(p), p.image_size) if p.masks is None else p.masks for p in parts])


def _bare(people: People) -> People:
    """Without what is large: maps and features."""
    return people.replace(maps=None, features=None)


def _told(people: People, changes: dict[int, Change], **columns: Any) -> People:
    """The people with one more change in the histories of some, and other columns."""
    if changes and people.provenance is not None:
        columns["provenance"] = tuple(
            replace(h, changes=(*h.changes, changes[i])) if i in changes else h
            for i, h in enumerate(people.provenance)
        )
    return people.replace(**columns) if columns else people


def _drop(why: Lost, known: int, number: int) -> Change:
    who = "somebody known" if why.to < known else "somebody else of this pass"
    return Change("dropped", f"{SAME_POSE} {who} (OKS {why.oks:.2f})", number)
