import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from vla_cl.rollout.shared_pictures import SharedPictures
from vla_cl.types import SuiteSpec

SPEC = SuiteSpec({"observation.images.a": (4, 6), "observation.images.b": (3, 5)}, 2, 2)


def images(value):
    sizes = enumerate(SPEC.cameras.items())
    return {camera: np.full((*size, 3), value + number, np.uint8) for number, (camera, size) in sizes}


def draw(pictures):
    for slot in range(2):
        pictures.write(slot, images(10 * slot + 1))


def test_another_process_writes_what_this_one_reads():
    pictures = SharedPictures(SPEC, slots=3)
    process = multiprocessing.get_context("spawn").Process(target=draw, args=(pictures,))
    process.start()
    process.join()
    assert process.exitcode == 0
    for slot, value in enumerate((1, 11)):
        for camera, image in images(value).items():
            np.testing.assert_array_equal(pictures.read(slot)[camera], image)
    assert not any(image.any() for image in pictures.read(2).values())
    pictures.close()


def test_other_pictures_than_promised_are_refused():
    pictures = SharedPictures(SPEC, slots=1)
    with pytest.raises(ValueError, match="the suite's spec promises pictures"):
        pictures.write(0, {"observation.images.a": np.zeros((4, 6, 3), np.uint8)})
    pictures.close()


def test_nothing_stays_open_and_a_view_survives():
    def held():
        return [set(map(str, Path(folder).iterdir())) for folder in ("/proc/self/fd", "/dev/shm")]

    before = held()
    pictures = SharedPictures(SPEC, slots=2)
    draw(pictures)
    view = pictures.read(1)["observation.images.a"]
    pictures.close()
    assert (view == 11).all()
    del view
    assert held() == before


def test_a_suite_without_cameras():
    pictures = SharedPictures(SuiteSpec({}, 2, 2), slots=2)
    pictures.write(1, {})
    assert pictures.read(1) == {}
    pictures.close()
