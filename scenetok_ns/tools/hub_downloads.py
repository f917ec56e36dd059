"""Download files from the Hugging Face Hub with its own library, which reads HF_HOME, HF_ENDPOINT, HF_TOKEN and
HF_HUB_OFFLINE."""

from __future__ import annotations

import os
from pathlib import Path

from scenetok_ns.tools.downloads import DownloadError, check_space


def hub_page(repository: str, name: str, revision: str | None = None) -> str:
    """Address of a file's web page."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{endpoint}/{repository}/blob/{revision or 'main'}/{name}"


def hub_cached(repository: str, name: str, revision: str | None, folder: Path | None) -> Path | None:
    """Return the path of a file that is already in `folder` or, if that is None, in the Hub's cache; None if it is
    absent. Never uses the network."""
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
        repository: Model repository, as OWNER/NAME.
        name: File in the repository.
        revision: Commit; None: the newest one.
        folder: Folder for the file; None: the Hub's cache.
        size: Size of the file in bytes, if known: a file of another size is refused before the download starts.

    Raises:
        DownloadError: The download failed: no network, no such file, licence not accepted, full disk, ... The message
            is one line.
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
    except Exception as error:  # besides its own errors, the library raises those of the HTTP library that it uses
        raise DownloadError(_reason(error, repository)) from error


def _reason(error: Exception, repository: str) -> str:
    from huggingface_hub import constants, errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return (
            f"the licence of {repository} is not accepted: accept it at {constants.ENDPOINT}/{repository} and log in "
            "with `hf auth login` or HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):  # the Hub also answers 401 to users who are not logged in
        return f"{constants.ENDPOINT} has no repository {repository}, or requires a token: set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository {repository} does not have the pinned revision any more"
    if status == 404:
        return f"the repository {repository} does not have the file any more (404)"
    if status is not None:
        return f"{constants.ENDPOINT} answers {status}"
    text = str(error).strip().splitlines()
    return f"{text[0] if text else type(error).__name__} ({constants.ENDPOINT})"
