"""Where files go that can be made again, for each user."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_cache_folder() -> Path:
    """The folder `tallformer` in the user's folder for caches; it need not exist.

    Source: XDG Base Directory Specification 0.8 on Linux; Apple's and Microsoft's conventions elsewhere.
    """
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base) / "tallformer" / "cache" if base else Path.home() / "AppData/Local/tallformer/cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/tallformer"
    base = os.environ.get("XDG_CACHE_HOME")
    # The specification has relative paths ignored.
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "tallformer"
