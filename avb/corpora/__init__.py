"""Corpora as `DatasetDict`s of one format: `load_bursts("hume_vb", "path/to/release", "high")`.

Rows have `id`, `audio` {bytes, path} (not decoded: see `avb.corpora.decode`), `labels`, and further columns of the
corpus. For a regression, `labels` is a list of float32, NaN for a missing label; for a classification, an int64, -100
for a missing label.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from avb.corpus_arguments import CORPORA
from avb.errors import AvbError, CorpusError, did_you_mean

if TYPE_CHECKING:
    from avb.corpora.rows import Corpus


def load_bursts(corpus: str, root: str | Path, task: str | None = None, **options) -> Corpus:
    """Load a corpus by name.

    Args:
        corpus: a key of `avb.corpus_arguments.CORPORA`, and the name of its module here.
        root: its folder or file.
        task: one of its tasks, or several joined by +, as in "high+two"; None means the corpus's default.
        **options: passed to its `load` function.

    Raises:
        CorpusError: no such corpus, task or option (the message names the nearest), or the corpus is invalid.
    """
    if corpus not in CORPORA:
        raise CorpusError(f"unknown corpus {corpus!r}{did_you_mean(corpus, CORPORA, 'Corpora')}")
    load = import_module(f"{__name__}.{corpus}").load
    legal = [name for name in inspect.signature(load).parameters if name not in ("root", "task")]
    for name in options:
        if name not in legal:
            raise CorpusError(f"corpus {corpus!r} has no option {name!r}{did_you_mean(name, legal, 'Options')}")
    names = task.split("+") if task else [task]
    try:
        loaded = [load(root, name, **options) for name in names]
        if len(names) == 1:
            return loaded[0]
        from avb.corpora.multitask import join

        return join(loaded)
    except AvbError:
        raise
    except ValueError as error:  # from avb.tasks, which does not use this package's errors
        raise CorpusError(str(error)) from error
