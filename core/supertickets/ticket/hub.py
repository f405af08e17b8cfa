"""Sharing a ticket on a model hub, as a repository with the ticket's two files and a model card."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from PIL import Image

from supertickets.errors import UserError
from supertickets.images import read_image, save_whole
from supertickets.ticket.card import model_card

if TYPE_CHECKING:
    from supertickets.ticket.ticket import Ticket

FILES = ("ticket.json", "ticket.safetensors")  # the files of a ticket
PICTURE = "picture.png"  # on the card
_HUB_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")  # owner/name


def push(
    ticket: Ticket,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    picture: str | Path | None = None,
) -> str:
    """Upload the ticket and its card to the hub's `owner/name` in one commit; returns the commit's URL.

    The repository is created if needed. `picture` is uploaded, too, and shown on the card.

    Absolute paths in the ticket's settings and provenance are shortened to their last part, because they mean nothing
    elsewhere. Raises `UserError` if the hub refuses the upload, and for a picture that cannot be read.
    """
    hub = _hub()
    if not _HUB_NAME.fullmatch(repo_id):
        raise UserError(f"{repo_id}: not a name on the hub; it should be owner/name")
    settings, provenance = (
        {key: _without_places(value) for key, value in data.items()} for data in (ticket.settings, ticket.provenance)
    )
    shared = replace(ticket, settings=settings, provenance=provenance)
    with tempfile.TemporaryDirectory() as folder:
        shared.save(folder)
        if picture is not None:
            save_whole(Image.fromarray(read_image(Path(picture))), Path(folder) / PICTURE)
        card = model_card(shared, repo_id, picture=None if picture is None else PICTURE)
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")
        api = hub.HfApi(token=token, library_name="supertickets")
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            done = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=f"A {ticket.task} ticket")
        except _errors() as error:
            raise UserError(f"{repo_id}: not uploaded: {_first_line(error)}") from error
    return str(done.commit_url)


def file_bytes(folder: Path) -> int:
    """The size of the files of the ticket in `folder`, without a ticket of early weights inside it."""
    return sum((folder / name).stat().st_size for name in FILES)


def ticket_folder(name: str | Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a ticket: `name` itself, or the hub's `owner/name` if neither this folder nor its parent exists.

    `revision` is a branch, tag or commit on the hub (default: the newest). Tickets from the hub are kept in its cache, which
    also works without a network connection. Raises `UserError` if the hub has no such ticket, and if a revision is given for a
    folder.
    """
    folder = Path(name)
    if not _HUB_NAME.fullmatch(folder.as_posix()) or folder.exists() or folder.parent.exists():
        if revision is not None:
            raise UserError(f"revision: {revision} given, but {name} is a local folder; only tickets on the hub have revisions")
        return folder
    hub = _hub(f"{name}: no such folder; to look on the hub")
    api = hub.HfApi(token=token, library_name="supertickets")
    try:
        found = Path(api.snapshot_download(folder.as_posix(), revision=revision, allow_patterns=list(FILES)))
    except _errors() as error:
        at = "" if revision is None else f" at revision {revision}"
        raise UserError(f"{name}: no such folder, and no such ticket on the hub{at}: {_first_line(error)}") from error
    if missing := [file for file in FILES if not (found / file).is_file()]:
        raise UserError(f"{name}: no such folder, and the repository on the hub is not a ticket: it has no {missing[0]}")
    return found


def _hub(purpose: str = "sharing") -> ModuleType:
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise UserError(f"{purpose} needs the package huggingface_hub: pip install 'supertickets[hub]'") from error


def _errors() -> tuple[type[Exception], ...]:
    """The errors that the hub's client raises for a wrong name, missing rights, no network or an unknown repository."""
    return (OSError, ValueError, import_module("huggingface_hub.errors").HTTPError)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _without_places(value: object) -> object:
    """The same data, with absolute paths shortened to their last part."""
    if isinstance(value, dict):
        return {key: _without_places(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(part) for part in value]
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value
