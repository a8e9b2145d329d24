"""What a hub, the network and the disk can do to a download, each in one line for the user."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mochi.core.errors import DownloadError
from mochi.weights.transfer import NETWORK_ERRORS


@contextmanager
def one_line(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn whatever goes wrong inside into a DownloadError with the reason in one line."""
    try:
        yield
    except HFValidationError:
        raise DownloadError(f"{repo_id!r:.100} is no repository name such as owner/name") from None
    except OfflineModeIsEnabled:
        raise DownloadError(f"{repo_id} is not here, and downloads are switched off") from None
    except HfHubHTTPError as error:
        raise DownloadError(_status_line(error, repo_id, revision)) from error
    except NETWORK_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DownloadError(
            f"{repo_id}: the hub went away ({reason}); what arrived is kept, run it again"
        ) from error
    except OSError as error:
        full = " (what arrived is kept)" if error.errno == errno.ENOSPC else ""
        raise DownloadError(f"{repo_id}: {error.strerror or error}{full}") from error


def _status_line(error: HfHubHTTPError, repo_id: str, revision: str | None) -> str:
    status = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no revision {revision or 'main'!r} (the hub says {status})"
    if isinstance(error, GatedRepoError):
        return f"{repo_id} is gated: accept its terms on the hub, then pass a token ({status})"
    if status == 401 or (isinstance(error, RepositoryNotFoundError) and status != 404):
        return f"{repo_id} does not exist, or is private and wants a token (the hub says {status})"
    rules = {
        403: "the token has no right to it",
        404: "there is no such repository or file",
        429: "too many requests; wait some minutes and run it again",
    }
    rule = rules.get(status, "the hub has trouble; run it again later" if status >= 500 else "")
    return f"{repo_id}: {rule or 'the hub refused'} (it says {status})"
