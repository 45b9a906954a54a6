import pytest

from vla_cl.cli.listing import GROUPS, first_sentence, listed, listing
from vla_cl.cli.main import main
from vla_cl.config.compose import choices


@pytest.mark.parametrize("what", GROUPS)
def test_every_choice_is_listed_once_with_a_word_about_it(what, capsys):
    assert main(["list", what]) == 0
    text = capsys.readouterr().out
    names = choices(GROUPS[what])
    assert [line.split()[0] for line in text.splitlines() if line and line[0] != " "][: len(names)] == names
    found = listed(what)
    assert [entry["name"] for entry in found] == names
    assert all(len(entry["about"]) > 10 for entry in found), found


def test_a_folder_of_ones_own_is_listed_too(tmp_path, capsys):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("# My own method. It is good.\nname: mine\n")
    assert main(["list", "methods", "--conf", str(tmp_path)]) == 0
    assert "mine" in capsys.readouterr().out
    assert "My own method\n" in listing("methods", folders=[tmp_path])


def test_the_first_sentence_ends_at_its_full_stop():
    assert first_sentence("ACT (Zhao et al. 2023, arXiv 2304.13705): 52 million. Trains.") == (
        "ACT (Zhao et al. 2023, arXiv 2304.13705): 52 million"
    )
    assert first_sentence("") == "-"
