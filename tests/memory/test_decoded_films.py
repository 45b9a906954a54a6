"""Decoded films: decoded once, within the limit, and anew when the file is another."""

import numpy as np
import pytest

from vla_cl.memory.decoded_films import DecodedFilms

PICTURES = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
SIZE = PICTURES.nbytes


class Decoder:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return PICTURES + self.calls


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(b"film")
    return paths


def test_a_film_is_decoded_once_and_cannot_be_written(files):
    films, decode = DecodedFilms(SIZE), Decoder()
    first, again = films.get(files[0], "image", decode), films.get(files[0], "image", decode)
    assert decode.calls == 1
    assert first is again
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


def test_every_feature_and_file_has_its_own(files):
    films, decode = DecodedFilms(10 * SIZE), Decoder()
    for path, feature in ((files[0], "image"), (files[0], "wrist"), (files[1], "image")):
        films.get(path, feature, decode)
    assert decode.calls == 3


def test_the_limit_holds_and_the_least_recently_used_goes(files):
    films, decode = DecodedFilms(2 * SIZE), Decoder()
    for number in (0, 1, 0, 2):
        films.get(files[number], "image", decode)
    assert (films.bytes, decode.calls) == (2 * SIZE, 3)
    films.get(files[0], "image", decode)
    assert decode.calls == 3
    films.get(files[1], "image", decode)
    assert decode.calls == 4


def test_a_film_above_the_limit_is_given_and_not_held(files):
    films = DecodedFilms(SIZE - 1)
    assert films.get(files[0], "image", Decoder()).shape == PICTURES.shape
    assert films.bytes == 0


def test_a_file_that_was_replaced_is_decoded_again(files, tmp_path):
    films, decode = DecodedFilms(), Decoder()
    films.get(files[0], "image", decode)
    (tmp_path / "new").write_bytes(b"film")
    (tmp_path / "new").replace(files[0])
    films.get(files[0], "image", decode)
    assert decode.calls == 2
