"""The page of a pushed model: a static Space that runs it in the visitor's browser, and its link in the card.

`avb.export.page_folder` builds the page and its files. The card links to the Space and shows the page's picture, one of
these files.
"""

import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from avb.export.page_folder import build_page

PICTURE = "picture.png"  # the page's picture, one of its files
_HEADING = "\n## Model\n"  # in a card: the page's section goes before it
_SECTION = """
## Try it

[![The page: a recording, the model, a bar for every label]({url}/resolve/main/{picture})]({url})

[The page]({url}) runs this model in your browser: record, upload or listen live. No sound leaves your machine.
"""


@contextmanager
def built_space(folder: str | os.PathLike, repo_id: str, ort_dir: str | os.PathLike | None = None):
    """Builds the page of a model in a temporary folder.

    Args:
        folder: the model's folder.
        repo_id: the model's repository, to which the page links.
        ort_dir: see `build_page`.

    Raises:
        AvbError: see `build_page`.
    """
    with TemporaryDirectory() as temporary:
        page = Path(temporary) / "page"
        build_page(page, [folder], ort_dir=ort_dir, links={str(folder): repo_id}, title=repo_id.rpartition("/")[2])
        yield page


def page_files(page: Path) -> list[str]:
    """Names of the page's files, including README.md."""
    return sorted(path.relative_to(page).as_posix() for path in page.rglob("*") if path.is_file())


def link_space(card: str, space_id: str | None) -> str:
    """Adds the section about the page to a card, replacing an older one; without a Space, the card is unchanged."""
    if space_id is None:
        return card
    url = f"https://huggingface.co/spaces/{space_id}"
    start = card.find("\n## Try it\n")
    if start >= 0:
        end = card.index("\n## ", start + 1)
        card = card[:start] + card[end:]
    section = _SECTION.format(url=url, picture=PICTURE)
    return card.replace(_HEADING, section + _HEADING, 1)
