"""Pushes a finished folder to the Hub: shows the list of files, then uploads exactly these files in one commit.

Unusual: the repository is private unless a public one is requested, and the push to an existing public repository is
refused otherwise. An interrupted push can be repeated: files that were uploaded are not sent again.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from avb.cards.hub_folder import REPO_PLACEHOLDER, hub_files
from avb.cards.space import built_space, link_space, page_files
from avb.errors import AvbError
from avb.run_files import CARD

_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")


def open_repository(repo_id: str, private: bool = True, repo_type: str = "model") -> str:
    """Ensures that a model can be pushed: checks the token, and creates the repository if it does not exist.

    Args:
        repo_id: ORG/NAME, or NAME for the token's own namespace.
        private: create a new repository as private; the visibility of an existing one is never changed.
        repo_type: `model`, or `space` for a static Space.

    Returns:
        The repository's full name.

    Raises:
        AvbError: there is no token, it has no write access, or the repository is public although `private` is set.
    """
    with _clear_errors(repo_id):
        api = HfApi()
        api.whoami()
        sdk = "static" if repo_type == "space" else None
        made = api.create_repo(repo_id, private=private, exist_ok=True, repo_type=repo_type, space_sdk=sdk)
        repo_id = made.repo_id
        if private and not api.repo_info(repo_id, repo_type=repo_type).private:
            raise AvbError(f"{repo_id} is public: push with --public, or make it private in its settings on the Hub")
    return repo_id


def push_folder(
    folder: str | Path,
    repo_id: str,
    private: bool = True,
    dry_run: bool = False,
    ask: bool = False,
    web_space: str | None = None,
    ort_dir: str | Path | None = None,
) -> str | None:
    """Lists the files of a folder that belong on the Hub, and uploads them.

    Args:
        folder: folder of a finished run, with its card.
        repo_id: ORG/NAME, created if it does not exist.
        private: see `open_repository`.
        dry_run: only print the list; sends no request to the Hub.
        ask: after the list, wait for a yes on the terminal.
        web_space: ORG/NAME of a static Space for the page that runs the model in the browser.
        ort_dir: folder with that page's runtime; None downloads it with npm.

    Returns:
        The commit's URL; None if nothing was uploaded.

    Raises:
        AvbError: the folder is not finished, a file looks like a pickle, the Hub rejects the card, the user declined,
            or the Hub cannot be reached or refuses the push.
    """
    folder = Path(folder)
    files = files_to_push(folder)
    with ExitStack() as stack:
        page = stack.enter_context(built_space(folder, repo_id, ort_dir)) if web_space else None
        _announce(repo_id, private, folder, files)
        if page and web_space:
            _announce(f"the Space {web_space}", private, page, page_files(page))
        if dry_run:
            print("nothing was uploaded (--dry_run)")
            return None
        if ask:
            _ask()
        repo_id = open_repository(repo_id, private)
        if web_space:
            web_space = open_repository(web_space, private, "space")
        card = (folder / CARD).read_text(encoding="utf-8").replace(REPO_PLACEHOLDER, repo_id)
        card = link_space(card, web_space)
        with _clear_errors(repo_id):
            try:
                ModelCard(card).validate()
            except ValueError as error:
                reason = " ".join(str(error).split())
                raise AvbError(f"{folder / CARD}: the Hub rejects its metadata: {reason}") from error
        name = folder.resolve().name
        address = _commit(repo_id, "model", folder, files, f"Upload {name}", {CARD: card.encode()})
        if page and web_space:
            _commit(web_space, "space", page, page_files(page), f"The page of {name}")
    return address


def _announce(repo_id: str, private: bool, folder: Path, files: list[str]):
    print(f"{repo_id} ({'private' if private else 'public'}) gets {len(files)} files:")
    for name in files:
        print(f"  {(folder / name).stat().st_size:>13,} bytes  {name}")


def _commit(
    repo_id: str, repo_type: str, folder: Path, files: list[str], message: str, other: dict[str, bytes] | None = None
) -> str:
    """Commits a folder's files at once and returns the commit's URL; `other` replaces the contents of some files."""
    contents = {name: folder / name for name in files} | (other or {})
    with _clear_errors(repo_id):
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        commit = HfApi().create_commit(repo_id, operations, commit_message=message, repo_type=repo_type)
    print(f"pushed: {commit.commit_url}")
    return commit.commit_url


def files_to_push(folder: Path) -> list[str]:
    """The files of `avb.cards.hub_folder.hub_files` and the example clips that the card shows.

    Raises:
        AvbError: the folder lacks a file or its card, or a file looks like a pickle.
    """
    files = hub_files(folder)
    if CARD not in files:
        raise AvbError(f"{folder}: no {CARD}; write the card first: python -m avb.cards write {folder}")
    try:
        sources = [str(example["src"]) for example in ModelCard.load(folder / CARD).data.get("widget", [])]
    except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise AvbError(
            f"{folder / CARD}: its metadata cannot be read ({_first_line(error)}): write the card again"
        ) from error
    files += [source for source in sources if "://" not in source]
    for name in files:
        path = folder / name
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            raise AvbError(f"{path}: the card shows it as an example, but it is not in this folder")
        if looks_like_pickle(path):
            raise AvbError(f"{path} looks like a pickle, which can run code when loaded: it is not uploaded")
    return files


def looks_like_pickle(path: Path) -> bool:
    """Checks the file's suffix and its first bytes, for pickles and PyTorch's zip archives of pickles."""
    with open(path, "rb") as file:
        start = file.read(4)
    is_pickle = len(start) > 1 and start[0] == 0x80 and start[1] in (2, 3, 4, 5)
    return path.suffix.lower() in _PICKLE_SUFFIXES or is_pickle or start == b"PK\x03\x04"


def _ask():
    try:
        answer = input("upload them? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise AvbError("nothing was uploaded: answer y, or add --yes")


@contextmanager
def _clear_errors(repo_id: str) -> Iterator[None]:
    """Turns the errors of the Hub's client into an AvbError of one line that says what to do."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise AvbError(
            "no Hub token: run `hf auth login`, or set HF_TOKEN, with write access (huggingface.co/settings/tokens)"
        ) from error
    except HFValidationError as error:
        raise AvbError(f"{repo_id!r} is not a repository name: give ORG/NAME ({_first_line(error)})") from error
    except OfflineModeIsEnabled as error:
        raise AvbError("the Hub client is offline: unset HF_HUB_OFFLINE to push") from error
    except HfHubHTTPError as error:
        raise AvbError(_explain(error.response.status_code, repo_id, error)) from error
    except (HTTPError, RuntimeError) as error:  # the client wraps errors of its upload threads
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, HfHubHTTPError):
            raise AvbError(_explain(cause.response.status_code, repo_id, cause)) from error
        if not isinstance(cause, HTTPError):
            raise
        endpoint = os.environ.get("HF_ENDPOINT", "the Hub")
        raise AvbError(
            f"the connection to {endpoint} failed ({_first_line(cause)}): repeat the command to continue"
        ) from error


def _explain(status: int, repo_id: str, error: Exception) -> str:
    if status == 401:
        return "the Hub does not accept the token: run `hf auth login` again, or correct HF_TOKEN"
    if status == 403:
        return f"the token has no write access to {repo_id}: use one that has, or another ORG/NAME"
    if status == 404:
        return f"{repo_id}: the Hub has no such repository or organisation: correct ORG/NAME, or create it there first"
    return f"{repo_id}: the Hub answered {status} ({_first_line(error)}): repeat the command to continue"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
