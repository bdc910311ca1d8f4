"""The forms in which a photo's people are written, beside the json: pictures, arrays, and the loop step by step."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bodyloop.loop.record import LoopResult

if TYPE_CHECKING:
    from bodyloop.images import Image
    from bodyloop.masks import Masks
    from bodyloop.people import People

    Answer: TypeAlias = People | LoopResult

FORMS = {
    "json": ".json", "vis": ".vis.jpg", "masks": ".masks.png", "npz": ".npz", "maps": ".maps.jpg",
    "sheet": ".loop.jpg", "gif": ".loop.gif", "mp4": ".loop.mp4", "html": ".loop.html",
}  # fmt: skip
OF_THE_LOOP = frozenset({"sheet", "gif", "mp4", "html"})


def people_of(answer: Answer) -> People:
    """The people of either kind of answer."""
    return answer.people if isinstance(answer, LoopResult) else answer


def write_forms(base: Path, save: Set[str], image: Image, answer: Answer, people: People) -> None:
    """Write what is asked for, but the json, as ``base`` with the form's ending.

    Args:
        answer: what `people_of` was asked for; with the passes, if forms of the loop are wanted.
        people: as they are to be written.
    """
    from bodyloop.drawing import draw, draw_loop
    from bodyloop.storage import save as save_people

    def path(form: str) -> Path:
        return Path(f"{base}{FORMS[form]}")

    if "vis" in save:
        draw(image, people).save(path("vis"))
    if "maps" in save:
        draw(image, people, maps=people.maps is not None).save(path("maps"))
    if "masks" in save:
        save_labels(people.masks, people.image_size, path("masks"))
    if save & {"npz", "maps"}:
        save_people(people, path("npz"))
    if isinstance(answer, LoopResult) and save & OF_THE_LOOP:
        drawing = draw_loop(image, answer)
        for form in sorted(save & OF_THE_LOOP):
            drawing.save(path(form))


def save_labels(masks: Masks | None, size: tuple[int, int], path: Path) -> None:
    """Write whose each pixel is: 0 nobody's, else 1 + the person's number; up to 255 people in their colours."""
    import numpy as np
    import PIL.Image

    from bodyloop.drawing.palette import INK, of_person
    from bodyloop.drawing.picture import write_whole

    labels = np.zeros((size[1], size[0]), np.uint16) if masks is None else masks.labels()
    if masks is None or len(masks) < 256:
        picture = PIL.Image.fromarray(labels.astype(np.uint8))
        colours = [INK, *(of_person(i).middle for i in range(255))]
        picture.putpalette([c for colour in colours for c in colour])
    else:
        picture = PIL.Image.fromarray(labels)
    write_whole(path, lambda f: picture.save(f, "PNG"))
