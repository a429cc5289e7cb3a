"""The licence of the weights that a training starts from, as a card says it."""

import pytest

from avb.encoders.names import licence_of


def card(folder, text: str):
    folder.mkdir()
    (folder / "README.md").write_text(text)
    return str(folder)


def test_it_is_that_of_the_card_beside_the_weights(tmp_path):
    assert licence_of(card(tmp_path / "a", "---\nlicense: cc-by-nc-4.0\n---\n# A\n")) == "cc-by-nc-4.0"
    other = "---\nlicense: other\nlicense_name: our-terms\n---\n"
    assert licence_of(card(tmp_path / "b", other)) == "our-terms"
    assert licence_of("LARGE-LV60K") == licence_of("facebook/wav2vec2-large-lv60") == "apache-2.0"
    assert licence_of("emogator-small") == "apache-2.0"


@pytest.mark.parametrize("text", ["no metadata\n", "---\nlicense: [\n---\n", "---\ntags: [x]\n---\n"])
def test_what_is_not_said_is_unknown(text, tmp_path):
    assert licence_of(card(tmp_path / "a", text)) == "unknown"
    assert licence_of(str(tmp_path)) == "unknown"
    assert licence_of("nobody/has-this") == "unknown"  # not in the cache, and nothing is downloaded
