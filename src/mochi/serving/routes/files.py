"""Files: uploads, and the videos that were made."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from mochi.core.errors import VideoError
from mochi.serving.auth import Base, Maker, Parts, Reader, identify
from mochi.serving.jobs import new_id
from mochi.serving.present import stored_file
from mochi.serving.problems import Problem, invalid, needs_token, not_found
from mochi.serving.routes.predictions import PAGE, decode_cursor, next_page
from mochi.serving.schemas import File, FilePage, problems
from mochi.serving.sending import send
from mochi.serving.services import Services
from mochi.serving.store.files import NewFile, StoredFile
from mochi.serving.variants import TYPES, variant_key

router = APIRouter(tags=["files"])
_PIECE = 1 << 20
_MAX_NAME = 255
_MAX_METADATA = 10_000
_SNIFFED = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
    (b"\x1aE\xdf\xa3", "video/webm"),
)

VIDEOS = ("video/mp4", "video/webm", "image/gif")
Variant = Literal["gif", "thumbnail", "last_frame", "spritesheet"]


_OPENAPI = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["content"],
                    "properties": {
                        "content": {"type": "string", "format": "binary"},
                        "metadata": {"type": "string", "description": "A JSON object."},
                    },
                }
            }
        },
    }
}


@router.post(
    "/v1/files",
    status_code=201,
    response_model=File,
    responses=problems(413, 415, 422),
    openapi_extra=_OPENAPI,
)
async def upload(request: Request, parts: Parts, base: Base, who: Maker) -> Any:
    """Keep a file. Its type is read off its first bytes, whatever it is called."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Problem(415, "send multipart/form-data")
    async with request.form(max_files=2, max_fields=10) as form:
        content, metadata = form.get("content"), form.get("metadata")
        if not isinstance(content, UploadFile):
            raise invalid([{"type": "missing", "field": "content", "description": "is no file"}])
        if isinstance(metadata, UploadFile):  # as Replicate's client for Node sends it
            metadata = (await metadata.read(_MAX_METADATA + 1)).decode("utf-8", "replace")
        about = _metadata(metadata)
        file = await run_in_threadpool(_keep, parts, who.account, content, about)
    return stored_file(file, base, parts.links)


def _keep(parts: Services, account: str, content: UploadFile, about: dict[str, Any]) -> StoredFile:
    file_id = new_id()
    path = parts.work / f"{file_id}.upload"
    digest, size, start = hashlib.sha256(), 0, b""
    parts.uploads.add(file_id)
    try:
        with path.open("wb") as stream:
            while piece := content.file.read(_PIECE):
                size += len(piece)
                if size > parts.settings.upload_bytes:
                    raise Problem(413, f"the file is larger than {parts.settings.upload_bytes}")
                start = start or piece[:16]
                digest.update(piece)
                stream.write(piece)
        parts.blobs.put(file_id, path)
        new = NewFile(
            id=file_id,
            account=account,
            name=_name(content.filename),
            content_type=_sniff(start),
            size=size,
            sha256=digest.hexdigest(),
            metadata=about,
        )
        return parts.files.add(new)
    finally:
        parts.uploads.discard(file_id)
        path.unlink(missing_ok=True)


@router.get("/v1/files", response_model=FilePage, responses=problems(422))
def page(parts: Parts, base: Base, who: Reader, cursor: str | None = None) -> Any:
    """The account's uploads, newest first."""
    files = parts.files.page(who.account, PAGE + 1, decode_cursor(cursor))
    following = next_page(f"{base}/v1/files", [file.seq for file in files], PAGE)
    shown = [stored_file(file, base, parts.links) for file in files[:PAGE]]
    return {"next": following, "previous": None, "results": shown}


@router.get("/v1/files/{file_id}", response_model=File, responses=problems(404))
def get(file_id: str, parts: Parts, base: Base, who: Reader) -> Any:
    """One file."""
    return stored_file(_find(parts, file_id, who.account), base, parts.links)


@router.delete("/v1/files/{file_id}", status_code=204, responses=problems(404, 409))
def delete(file_id: str, parts: Parts, who: Maker) -> None:
    """Remove an upload; a prediction's video goes with the prediction."""
    file = _find(parts, file_id, who.account)
    if file.prediction is not None:
        raise Problem(409, "it belongs to a prediction: delete that")
    parts.remove_file(file_id)
    parts.database.scrub()
    parts.audit.add(who.account, "deleted", None, file=file_id)


@router.get(
    "/v1/files/{file_id}/download",
    response_class=Response,
    responses=problems(404, 422)
    | {
        200: {"description": "The bytes.", "content": {"application/octet-stream": {}}},
        206: {"description": "A range of them."},
        304: {"description": "Those that you have."},
        416: {"description": "There is no such range."},
    },
)
def download(
    file_id: str,
    request: Request,
    parts: Parts,
    variant: Variant | None = None,
    expires: Annotated[int, Query(ge=0, le=2**53)] = 0,
    signature: Annotated[str, Query(max_length=64)] = "",
    attachment: bool = False,
) -> Response:
    """The bytes, for whoever has a signed address or the owner's token."""
    if parts.links.holds(file_id, variant, expires, signature):
        file = _find(parts, file_id)
    else:
        identity = identify(request)
        if identity is None and not signature:
            raise needs_token()
        if identity is None or not identity.may("read"):
            raise not_found("file")
        file = _find(parts, file_id, identity.account)
    return content_of(request, parts, file, variant, attachment)


def content_of(
    request: Request,
    parts: Services,
    file: StoredFile,
    variant: str | None,
    attachment: bool = False,
) -> Response:
    """A file's bytes, or those of a variant of it."""
    key, media_type, name = file.id, file.content_type, file.name
    if variant is not None:
        if file.content_type not in VIDEOS:
            raise not_found("variant: it is no video")
        try:
            key = variant_key(parts, file, variant)
        except VideoError as error:
            raise Problem(409, f"no {variant} can be made: {error}") from None
        media_type = TYPES[variant]
        name = f"{name.rpartition('.')[0]}-{variant}.{media_type.partition('/')[2]}"
    # An upload is shown as what its bytes are, or not at all: never as a page of this site.
    attachment = attachment or file.prediction is None
    etag = f"{file.sha256[:32]}{variant or ''}"
    return send(
        request,
        parts.blobs,
        key,
        media_type=media_type,
        etag=etag,
        name=name,
        attachment=attachment,
    )


def _find(parts: Services, file_id: str, account: str | None = None) -> StoredFile:
    file = parts.files.get(file_id, account)
    if file is None:
        raise not_found("file")
    return file


def _metadata(text: str | None) -> dict[str, Any]:
    if not text:
        return {}
    if len(text) > _MAX_METADATA:
        raise Problem(413, f"the metadata is longer than {_MAX_METADATA} characters")
    try:
        about = json.loads(text)
        json.dumps(about, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):  # half a character is a ValueError too
        about = None
    if not isinstance(about, dict):
        raise invalid([{"type": "value", "field": "metadata", "description": "is no JSON object"}])
    return about


def _name(given: str | None) -> str:
    """A name to show: no folders, no control characters. It is never used as a path."""
    last = (given or "").replace("\\", "/").rpartition("/")[2]
    plain = "".join(letter for letter in last if letter.isprintable())
    return plain.encode("utf-8", "replace").decode()[:_MAX_NAME] or "file"


def _sniff(start: bytes) -> str:
    if start[4:8] == b"ftyp":
        return "video/mp4"
    for magic, kind in _SNIFFED:
        if start.startswith(magic):
            return kind
    return "application/octet-stream"
