"""Contact sheets of a suite without a simulator."""

import numpy as np
import pytest
from PIL import Image, ImageFont
from toy_world import SIZE, PointSuite

from vla_cl.cli.main import main
from vla_cl.tools import gallery
from vla_cl.types import ConfigurationError


@pytest.fixture
def font():
    return ImageFont.load_default(12)


def test_every_task_is_on_the_sheet_in_its_place(tmp_path):
    suite = PointSuite()
    path = gallery.write_gallery(suite, tmp_path / "new folder")
    assert path == tmp_path / "new folder" / "point.jpg"
    sheet = np.asarray(Image.open(path)).astype(int)
    side, step = gallery.PICTURE_WIDTH, gallery.PICTURE_WIDTH + gallery.MARGIN
    assert sheet.shape[1] == 3 * step + gallery.MARGIN
    for column, task in enumerate(suite.tasks()):
        shown = sheet[gallery.MARGIN : gallery.MARGIN + side, gallery.MARGIN + column * step :][:, :side]
        picture = Image.fromarray(gallery.first_picture(suite, task)).resize((side, side), Image.Resampling.LANCZOS)
        assert np.abs(shown - np.asarray(picture)).mean() < 3
        below = sheet[gallery.MARGIN + side :, gallery.MARGIN + column * step :][:, :side]
        assert (below < 100).any(axis=2).sum() > 50  # letters


def test_it_shows_the_first_reported_state_and_closes_what_it_opens(monkeypatch):
    suite, closed = PointSuite(), []
    environment = suite.make_environment(suite.tasks()[0])
    environment.close = lambda: closed.append(True)
    monkeypatch.setattr(suite, "make_environment", lambda task: environment)
    picture = gallery.first_picture(suite, suite.tasks()[0])
    assert closed == [True]
    environment.reset(20_000)
    assert np.array_equal(picture, environment.film())
    monkeypatch.setattr(environment, "film", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gallery.first_picture(suite, suite.tasks()[0])
    assert closed == [True, True]


def test_cameras_stand_side_by_side(monkeypatch):
    suite = PointSuite()
    environment = suite.make_environment(suite.tasks()[0])
    observe = environment.observe

    def two_cameras():
        seen = observe()
        small = np.zeros((SIZE // 2, SIZE, 3), np.uint8)
        object.__setattr__(seen, "images", {**seen.images, "observation.images.wrist": small})
        return seen

    monkeypatch.setattr(environment, "observe", two_cameras)
    monkeypatch.setattr(suite, "make_environment", lambda task: environment)
    assert gallery.first_picture(suite, suite.tasks()[0], cameras=True).shape == (SIZE, 3 * SIZE, 3)


def test_profiles_are_shown_one_above_the_other(tmp_path):
    looks = {"first": PointSuite("first"), "second": PointSuite("second")}
    with Image.open(gallery.write_profiles(looks, "red", tmp_path)) as sheet:
        width, height = sheet.size
    assert width == gallery.ENLARGED * SIZE
    assert height > 2 * gallery.ENLARGED * SIZE
    with pytest.raises(ConfigurationError, match="unknown task 'rad'"):
        gallery.write_profiles(looks, "rad", tmp_path)


def test_a_suite_without_tasks_is_refused(tmp_path, monkeypatch):
    suite = PointSuite()
    monkeypatch.setattr(suite, "tasks", list)
    with pytest.raises(ConfigurationError, match="'point' has no tasks"):
        gallery.write_gallery(suite, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_composes_the_suite(tmp_path, capsys):
    arguments = ["gallery", "point", "plugins=[toy_world]", "--conf", "tests/conf", "--output", str(tmp_path)]
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "point.jpg")
    assert main(["gallery", "metawold"]) == 2
    assert "metaworld" in capsys.readouterr().err


def test_texts_are_wrapped_and_cut(font):
    text = "put both the alphabet soup and the tomato sauce in the basket"
    lines = gallery.wrapped(text, font, 120, 2)
    assert len(lines) == 2 and lines[1].endswith("…")
    assert all(font.getlength(line) <= 120 for line in lines)
    assert gallery.wrapped(text, font, 2_000, 2) == [text]
    assert gallery.wrapped("", font, 100, 2) == [""]
    assert " ".join(gallery.wrapped(text, font, 120, 9)) == text
    (one,) = gallery.wrapped("incomprehensibilities", font, 60, 1)
    assert one.endswith("…") and font.getlength(one) <= 60


@pytest.mark.parametrize(
    "name, instruction, repeats",
    [
        ("put the bowl on the plate", "put the bowl on the plate", True),
        ("KITCHEN SCENE8 put both moka pots on the stove", "Put both moka pots on the stove.", True),
        ("drawer-open", "Open a drawer", False),
    ],
)
def test_an_instruction_that_the_name_says_already_is_left_out(name, instruction, repeats):
    assert gallery._ends_with(name, instruction) is repeats
