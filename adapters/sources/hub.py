"""Downloads a repository of the Hugging Face hub at one commit."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adapters.artifact import WANTED, require_files
from adapters.artifact.files import BESIDE
from adapters.errors import SourceRefused, SourceUnavailable
from adapters.sources.byte_limit import ByteLimit
from adapters.sources.models import HubSource
from adapters.store.fsync import raising_store_full

#: A larger file beside the weights is not downloaded: only its beginning is read.
_BESIDE_MAX_BYTES = 32 << 20


def fetch_hub(source: HubSource, into: Path, limit: ByteLimit) -> str:
    """Download the wanted files of one commit; the library resumes an interrupted download.

    Raises: SourceUnavailable, SourceRefused, ArtifactRefused.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    token = None if source.own_token else False  # None: that of the library's environment
    try:
        info = HfApi(endpoint=source.endpoint, token=token).model_info(
            source.repo, revision=source.revision, files_metadata=True
        )
        sizes = _sizes(source, info.siblings or ())
        require_files(sizes)
        wanted = WANTED & sizes.keys()
        beside = {name for name in BESIDE & sizes.keys() if (sizes[name] or 0) <= _BESIDE_MAX_BYTES}
        limit.expect(sum(sizes[name] or 0 for name in wanted | beside))
        place = {"repo_id": source.repo, "subfolder": source.folder, "revision": str(info.sha)}
        how = {"endpoint": source.endpoint, "token": token, "tqdm_class": _counted(limit), "local_dir": into}
        for name in (*sorted(wanted), *sorted(beside)):
            with raising_store_full():
                Path(hf_hub_download(filename=name, **place, **how)).rename(into / name)
    except HFValidationError as error:
        raise SourceRefused(f"{source.label} is no valid repository name; write hf://org/name.") from error
    except HfHubHTTPError as error:
        raise SourceUnavailable(_explain(source, error)) from error
    except (HTTPError, OSError) as error:
        raise SourceUnavailable(
            f"{source.label} cannot be reached; check the server's network and try again."
        ) from error
    for left_over in (".cache", *(source.folder or "").split("/")[:1]):
        if left_over:
            shutil.rmtree(into / left_over, ignore_errors=True)
    return source.at(str(info.sha))


def _sizes(source: HubSource, files: Iterable[Any]) -> dict[str, int | None]:
    """Sizes of the files in the source's folder and below it, by their path from there."""
    below = f"{source.folder}/" if source.folder else ""
    return {f.rfilename.removeprefix(below): f.size for f in files if f.rfilename.startswith(below)}


def _counted(limit: ByteLimit) -> Any:
    """A progress bar for hf_hub_download that counts each chunk and draws nothing."""
    from huggingface_hub.utils import tqdm

    class CountingBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            limit.add(int(n or 0))

    return CountingBar


def _explain(source: HubSource, error: Any) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, RevisionNotFoundError):
        return (
            f"{source.label}: there is no revision {source.revision!r}; give a branch, tag or commit it has."
        )
    if isinstance(error, GatedRepoError):
        return f"{source.label} is gated; accept its terms on the hub and give the server a token."
    if isinstance(error, RepositoryNotFoundError):
        return f"{source.label} does not exist, or is private and needs a token; check both."
    status = getattr(error.response, "status_code", "no")
    return f"{source.label} cannot be fetched: the hub answered with status {status}; try again later."
