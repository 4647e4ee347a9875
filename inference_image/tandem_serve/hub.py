"""Where a model's files are: a directory, or a repository of the Hugging Face hub that is fetched into the cache."""

from __future__ import annotations

import re
from pathlib import Path

from tandem_serve.engine.progress import LoadProgress
from tandem_serve.problems import load_error, usage_error
from tandem_serve.settings import Settings

_REPOSITORY = re.compile(r"^[\w-][\w.-]*/[\w-][\w.-]*$")
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.py"]


def local_directory(settings: Settings, progress: LoadProgress) -> Path:
    """The directory of the model. Raises `StartError` when there is none and it cannot be fetched."""
    path = Path(settings.model)
    if path.exists() or not _REPOSITORY.match(settings.model):
        if settings.revision is not None:
            reason = "a revision belongs to a hub repository, and --model names a directory"
            raise usage_error("--revision", value=settings.revision, reason=reason, fix="leave --revision out")
        return path
    from huggingface_hub import snapshot_download

    token = settings.config.hf_token
    try:
        with progress.step("download"):
            return Path(
                snapshot_download(
                    settings.model,
                    revision=settings.revision,
                    token=token.get_secret_value() if token is not None else None,
                    allow_patterns=_FILES,
                )
            )
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise load_error(
            "--model",
            value=settings.model,
            reason=f"there is no such directory, and the hub does not give it: {first_line}",
            fix="give a directory, or set HF_TOKEN for a private repository",
        ) from None
