"""Whether an engine was built by this user.

Note [an engine is a program]
    An engine holds machine code, and TensorRT checks nothing when it loads one. Bundles are passed on, and nothing
    else in a bundle can run: an engine that came along must not be loaded because it lies there and its name fits. So
    what is built here is sealed with a secret that only this user can read, and what has no seal of this user is
    refused until `tallformer engine accept` seals it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from tallformer_infer.errors import OutputError
from tallformer_infer.files import user_cache_folder

_NAME = "engine-seal.key"
_BYTES = 32


def seal(content: bytes) -> str:
    """The mark of this user on `content`; the secret is made where there is none.

    Raises:
        OutputError: The secret cannot be kept.
    """
    return hmac.new(_secret() or _make_secret(), content, hashlib.sha256).hexdigest()


def is_sealed(content: bytes, mark: str) -> bool:
    """Whether `mark` is this user's on `content`."""
    secret = _secret()
    return secret is not None and hmac.compare_digest(
        hmac.new(secret, content, hashlib.sha256).hexdigest().encode(), mark.encode()
    )


def _secret() -> bytes | None:
    try:
        content = _file().read_bytes()
    except OSError:
        return None
    return content if len(content) == _BYTES else None


def _make_secret() -> bytes:
    """In a file of its own that is then linked: of two programs at once, both get that of the first."""
    file = _file()
    temporary = file.with_name(f".{file.name}-{secrets.token_hex(6)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(secrets.token_bytes(_BYTES))
        if file.exists() and _secret() is None:
            file.unlink()  # damaged: nothing that it sealed can be told any more
        try:
            os.link(temporary, file)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror or error}") from error
    made = _secret()
    if made is None:
        raise OutputError(f"{file}: cannot be read again")
    return made


def _file() -> Path:
    return user_cache_folder() / _NAME
