"""Pictures of a suite for people: a contact sheet of every task, and one task in both render profiles.

``vla-cl gallery metaworld --output docs/tasks`` writes ``docs/tasks/metaworld.jpg``, each task as its
first reported episode starts; with ``--profiles drawer-open`` it writes ``docs/tasks/metaworld-profiles.png``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vla_cl.config.compose import build, compose
from vla_cl.data.streams import named_tasks
from vla_cl.envs.rendering import RENDER_PROFILES
from vla_cl.files import replacing
from vla_cl.interfaces import Suite
from vla_cl.types import ConfigurationError, Task

SHEET_WIDTH = 960  # pixels; what a page of documentation shows at full size
PICTURE_WIDTH = 176  # of one camera; two cameras side by side take twice that
MARGIN = 8
ENLARGED = 3  # times, in the comparison of profiles: pixels can be seen
NAME_SIZE, TEXT_SIZE = 13, 11
TEXT_LINES = 2  # of the instruction
QUALITY = 82  # of JPEG
INK, GREY, PAPER = "#111111", "#555555", "#ffffff"


def write_gallery(suite: Suite, folder: Path, cameras: bool = False) -> Path:
    """Render every task of a suite and write the sheet.

    Args:
        suite: Any suite; its tasks are built one after another, in this process.
        folder: Where ``<name of the suite>.jpg`` goes; made if need be.
        cameras: Show every camera as a policy sees it, instead of the picture for people.

    Returns:
        The sheet.

    Raises:
        ConfigurationError: The suite has no tasks, or its simulator, assets or renderer are missing.
    """
    tasks = suite.tasks()
    if not tasks:
        raise ConfigurationError(f"suite {suite.name!r} has no tasks to show")
    pictures = [first_picture(suite, task, cameras) for task in tasks]
    path = folder / f"{suite.name}.jpg"
    with replacing(path) as temporary:
        contact_sheet(tasks, pictures).save(temporary, quality=QUALITY, optimize=True)
    return path


def first_picture(suite: Suite, task: Task, cameras: bool = False) -> NDArray[np.uint8]:
    """A task's world as its first reported episode starts, uint8 (H, W, 3); cameras stand side by side."""
    environment = suite.make_environment(task)
    try:
        environment.reset(suite.initial_states("report", 1)[0])
        if not cameras:
            return environment.film()
        return _side_by_side(list(environment.observe().images.values()))
    finally:
        environment.close()


def contact_sheet(tasks: Sequence[Task], pictures: Sequence[NDArray[np.uint8]]) -> Image.Image:
    """Pictures in rows, each with its task's name and the beginning of its instruction below.

    Args:
        tasks: What the pictures show.
        pictures: uint8 (H, W, 3), of any sizes.
    """
    name_font, text_font = ImageFont.load_default(NAME_SIZE), ImageFont.load_default(TEXT_SIZE)
    widest = max(picture.shape[1] / picture.shape[0] for picture in pictures)
    width = round(PICTURE_WIDTH * max(1.0, widest))
    columns = max(1, min(len(tasks), SHEET_WIDTH // (width + MARGIN)))
    scaled = [_scaled(picture, width) for picture in pictures]
    picture_height = max(image.height for image in scaled)
    row_height = picture_height + NAME_SIZE + TEXT_LINES * (TEXT_SIZE + 2) + 2 * MARGIN
    rows = -(-len(tasks) // columns)
    sheet = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, rows * row_height + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (task, image) in enumerate(zip(tasks, scaled, strict=True)):
        left = MARGIN + number % columns * (width + MARGIN)
        top = MARGIN + number // columns * row_height
        sheet.paste(image, (left, top))
        top += picture_height + MARGIN // 2
        name, instruction = task.name.replace("_", " "), task.instruction
        repeated = _ends_with(name, instruction)
        for line in wrapped(name, name_font, width, 2 if repeated else 1):
            draw.text((left, top), line, INK, name_font)
            top += NAME_SIZE + 3
        for line in wrapped("" if repeated else instruction, text_font, width, TEXT_LINES):
            draw.text((left, top), line, GREY, text_font)
            top += TEXT_SIZE + 2
    return sheet


def write_profiles(suites: Mapping[str, Suite], task_name: str, folder: Path) -> Path:
    """Write one task's pictures, as a policy sees them, enlarged, one row for each look.

    Args:
        suites: What each row is called, and a suite that differs from the others in its render profile only.
        task_name: Name or id of a task of theirs.
        folder: Where ``<name of the suite>-profiles.png`` goes; made if need be.

    Raises:
        ConfigurationError: There is no such task, or simulator, assets or renderer are missing.
    """
    rows = []
    for label, suite in suites.items():
        picture = first_picture(suite, named_tasks([task_name], suite.tasks())[0], cameras=True)
        rows.append((label, picture.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)))
    font = ImageFont.load_default(NAME_SIZE)
    label_height = NAME_SIZE + MARGIN
    width = max(picture.shape[1] for _, picture in rows)
    sheet = Image.new("RGB", (width, sum(picture.shape[0] + label_height for _, picture in rows)), PAPER)
    draw, top = ImageDraw.Draw(sheet), 0
    for label, picture in rows:
        draw.text((0, top + MARGIN // 4), label, INK, font)
        sheet.paste(Image.fromarray(picture), (0, top + label_height))
        top += picture.shape[0] + label_height
    path = folder / f"{next(iter(suites.values())).name}-profiles.png"
    with replacing(path) as temporary:
        sheet.save(temporary, optimize=True)
    return path


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most: int) -> list[str]:
    """Text in lines no wider than ``width`` pixels; what does not fit into ``most`` lines becomes an ellipsis."""
    words = text.split()
    lines = [""]
    while words:
        longer = f"{lines[-1]} {words[0]}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
            words.pop(0)
        elif len(lines) < most:
            lines.append("")
        else:
            lines[-1] = longer
            break
    while font.getlength(lines[-1] + "…" * bool(words)) > width and len(lines[-1]) > 1:
        lines[-1] = lines[-1].removesuffix("…")[:-1].rstrip() + ("" if words else "…")
    if words:
        lines[-1] += "…"
    return lines


def _ends_with(name: str, instruction: str) -> bool:
    """Whether reading the name is reading the instruction, as in LIBERO."""
    return name.replace("-", " ").casefold().endswith(instruction.casefold().rstrip("."))


def _side_by_side(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    height = max(image.shape[0] for image in images)
    scaled = [_scaled(image, image.shape[1] * height // image.shape[0]) for image in images]
    return np.hstack([np.asarray(image) for image in scaled])


def _scaled(picture: NDArray[np.uint8], width: int) -> Image.Image:
    height = round(picture.shape[0] * width / picture.shape[1])
    return Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)


def write(
    suite_name: str,
    folder: Path,
    cameras: bool = False,
    profiles: str | None = None,
    overrides: Sequence[str] = (),
    folders: Sequence[Path] = (),
) -> Path:
    """``vla-cl gallery``: the sheet of a suite, or one of its tasks in every render profile.

    Args:
        suite_name: A yaml of ``conf/suite``.
        folder: Where the picture goes.
        cameras: Every camera as a policy sees it.
        profiles: Name of the task to show in every render profile instead.
        overrides: Hydra overrides.
        folders: Further folders of yaml files.

    Returns:
        The picture.

    Raises:
        ConfigurationError: There is no such suite or task, or it cannot be simulated here.
    """

    def suite(*more: str) -> Suite:
        settings = compose([f"suite={suite_name}", *overrides, *more], root="evaluate", folders=folders)
        return build(settings["suite"], Suite, settings["plugins"])

    if profiles is None:
        return write_gallery(suite(), folder, cameras)
    looks = {profile: suite(f"suite.render_profile={profile}") for profile in RENDER_PROFILES}
    return write_profiles(looks, profiles, folder)
