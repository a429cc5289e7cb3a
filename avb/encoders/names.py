"""The paper's four pre-trained extractors by the names of its tables (section III-A), on the Hub or in a local folder;
and the models that come with the project, as encoders to start from.

The paper calls XLSR53 a "base configuration"; the released model is a large one (24 layers, width 1024).
"""

import contextlib
import logging
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from avb.errors import AvbError
from avb.models import locate, names, refuse_missing_folder

EXTRACTORS: dict[str, str] = {
    "BASE": "facebook/wav2vec2-base",
    "LARGE": "facebook/wav2vec2-large",
    "LARGE-LV60K": "facebook/wav2vec2-large-lv60",
    "XLSR53": "facebook/wav2vec2-large-xlsr-53",
}
ENCODERS_VARIABLE = "AVB_ENCODERS"


CONNECT_SECONDS = 5.0  # for the Hub to answer

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def reading_hub(name: str) -> Iterator[None]:
    """While the Hub cannot be reached, only its cache is read, and a warning says so.

    Its client would try again for 23 s for each file of a model, and for some files twice.

    Args:
        name: what is read: for a folder, nothing is asked.
    """
    from huggingface_hub import constants

    was_offline = constants.HF_HUB_OFFLINE
    if was_offline or os.path.exists(name) or _reaches(constants.ENDPOINT):
        yield
        return
    logger.warning("%s cannot be reached: %s is read from its cache on this machine", constants.ENDPOINT, name)
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _reaches(address: str) -> bool:
    """Whether its server accepts a connection; true behind a proxy, which is not asked."""
    if urllib.request.getproxies():
        return True
    parts = urllib.parse.urlsplit(address)
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        with socket.create_connection((parts.hostname or "", port), CONNECT_SECONDS):
            return True
    except OSError:
        return False


def licence_of(name: str) -> str:
    """The licence of an encoder's weights in its model card's metadata, e.g. `apache-2.0`; "unknown" without a card.

    The paper's four are built in. Nothing is downloaded: for a name on the Hub, the cached card is read.

    Args:
        name: as `resolve` takes it.
    """
    import yaml  # imported here, because names are resolved before anything slow is loaded
    from huggingface_hub import ModelCard, try_to_load_from_cache

    checkpoint = EXTRACTORS.get(name, name)
    if checkpoint in EXTRACTORS.values():
        return "apache-2.0"
    if name in names():
        return "apache-2.0"  # trained only on EmoGator, which has this licence
    folder = Path(resolve(name))
    path = folder / "README.md" if folder.is_dir() else try_to_load_from_cache(checkpoint, "README.md")
    if not isinstance(path, (str, Path)) or not Path(path).is_file():
        return "unknown"
    try:
        data = ModelCard.load(path).data
    except (OSError, ValueError, yaml.YAMLError):
        return "unknown"
    return str(getattr(data, "license_name", None) or data.license or "unknown")


def resolve(name: str, encoders_dir: str | Path | None = None) -> str:
    """Converts the name of an encoder to the argument of `from_pretrained`.

    Args:
        name: a key of `EXTRACTORS`, a shipped model (`emogator-small`) or the name of a checkpoint on the Hub; anything
            else is returned as it is.
        encoders_dir: folder of downloaded checkpoints, for machines that are offline; by default the environment
            variable AVB_ENCODERS. A folder in it named like the extractor (`LARGE-LV60K`), or like the last part of
            its Hub name (`wav2vec2-large-lv60`), takes precedence over the Hub.

    Raises:
        AvbError: the folder of checkpoints does not exist, or a folder of models does not contain the model.
    """
    checkpoint = EXTRACTORS.get(name, name)
    if Path(name).exists() or checkpoint.count("/") != 1:
        return locate(name, EXTRACTORS)
    refuse_missing_folder(name)
    root = encoders_dir or os.environ.get(ENCODERS_VARIABLE)
    if not root:
        return checkpoint
    if not Path(root).is_dir():
        raise AvbError(f"{root}: no such folder of encoders; set {ENCODERS_VARIABLE} to one that exists, or unset it")
    spellings = [short for short, long in EXTRACTORS.items() if long == checkpoint]
    for folder in (Path(root, folder) for folder in (*spellings, checkpoint.rpartition("/")[2])):
        if folder.is_dir():
            return str(folder)
    return checkpoint
