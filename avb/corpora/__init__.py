"""Corpora as `DatasetDict`s of one format: `load_bursts("hume_vb", "path/to/release", "high")`.

Rows have `id`, `audio` {bytes, path} (not decoded: see `avb.corpora.decode`), `labels`, and further columns of the
corpus. For a regression, `labels` is a list of float32, NaN for a missing label; for a classification, an int64, -100
for a missing label.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from avb.corpora.multitask import join
from avb.corpora.rows import Corpus, require_split
from avb.corpus_arguments import CORPORA as KNOWN
from avb.errors import AvbError, CorpusError, did_you_mean

__all__ = ["CORPORA", "Corpus", "load_bursts", "require_split"]

CORPORA: dict[str, Callable[..., Corpus]] = {name: import_module(f"{__name__}.{name}").load for name in KNOWN}


def load_bursts(corpus: str, root: str | Path, task: str | None = None, **options) -> Corpus:
    """Load a corpus by name.

    Args:
        corpus: a key of `CORPORA`.
        root: where it lies.
        task: which of its tasks; several are joined by +, "high+two"; None is the corpus's own default.
        **options: of its `load` function.

    Raises:
        CorpusError: no such corpus, task or option (the message names the nearest), or a corpus that does not fit.
    """
    if corpus not in CORPORA:
        raise CorpusError(f"unknown corpus {corpus!r}{did_you_mean(corpus, CORPORA, 'Corpora')}")
    load = CORPORA[corpus]
    legal = [name for name in inspect.signature(load).parameters if name not in ("root", "task")]
    for name in options:
        if name not in legal:
            raise CorpusError(f"corpus {corpus!r} has no option {name!r}{did_you_mean(name, legal, 'Options')}")
    names = task.split("+") if task else [task]
    try:
        loaded = [load(root, name, **options) for name in names]
        return loaded[0] if len(names) == 1 else join(loaded)
    except AvbError:
        raise
    except ValueError as error:  # of avb.tasks, which knows no errors of this package
        raise CorpusError(str(error)) from error
