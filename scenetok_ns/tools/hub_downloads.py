"""Files from the Hugging Face Hub, through its own library: HF_HOME, HF_ENDPOINT, HF_TOKEN and offline mode count."""

from __future__ import annotations

import os
from pathlib import Path

from scenetok_ns.tools.downloads import DownloadError, check_space


def hub_page(repository: str, name: str, revision: str | None = None) -> str:
    """Address of a file's page, for a browser."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{endpoint}/{repository}/blob/{revision or 'main'}/{name}"


def hub_cached(repository: str, name: str, revision: str | None, folder: Path | None) -> Path | None:
    """A file that is here already, in `folder` or in the Hub's cache; never asks the network."""
    if folder is not None:
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def hub_download(
    repository: str, name: str, revision: str | None, folder: Path | None = None, size: int | None = None
) -> Path:
    """Download a file, continuing an earlier call, and return its path.

    Args:
        repository: Repository of models, OWNER/NAME.
        name: File in it.
        revision: Commit; None: the newest one.
        folder: Folder for the file; None: the Hub's cache.
        size: Size of the file in bytes, where it is known: another one is refused before anything moves.

    Raises:
        DownloadError: one line: no network, no such file, licence not accepted, full disk, ...
    """
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise DownloadError("needs the package huggingface_hub: pip install huggingface_hub") from error
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise DownloadError("HF_HUB_OFFLINE is set and the file is not in the cache: unset it or copy the file")
    try:
        facts = hub.get_hf_file_metadata(hub.hf_hub_url(repository, name, revision=revision))
        if size is not None and facts.size is not None and facts.size != size:
            raise DownloadError(f"the server offers a file of {facts.size} bytes, the released one has {size}")
        check_space(folder or Path(constants.HF_HUB_CACHE), facts.size or 0, name)
        return Path(hub.hf_hub_download(repository, name, revision=revision, local_dir=folder))
    except DownloadError:
        raise
    except Exception as error:  # besides its own errors, the library passes on those of whatever it connects with
        raise DownloadError(_reason(error, repository)) from error


def _reason(error: Exception, repository: str) -> str:
    from huggingface_hub import constants, errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return (
            f"the licence of {repository} is not accepted: accept it at {constants.ENDPOINT}/{repository} and log in "
            "with `hf auth login` or HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):  # the Hub's answer 401, to strangers
        return f"{constants.ENDPOINT} has no repository {repository}, or wants a token: set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository {repository} does not have the pinned revision any more"
    if status == 404:
        return f"the repository {repository} does not have the file any more (404)"
    if status is not None:
        return f"{constants.ENDPOINT} answers {status}"
    text = str(error).strip().splitlines()
    return f"{text[0] if text else type(error).__name__} ({constants.ENDPOINT})"
