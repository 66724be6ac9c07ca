"""A check that all parts of a model share."""

from __future__ import annotations

from tallformer_infer.errors import ConfigError


def require_positive(section: str, **values: int | tuple[int, ...]) -> None:
    """Refuse sizes below 1.

    Raises:
        ConfigError: One is; the message names it.
    """
    for name, value in values.items():
        sizes = value if isinstance(value, tuple) else (value,)
        if any(size < 1 for size in sizes):
            raise ConfigError(
                f"{section}: {name}={list(value) if isinstance(value, tuple) else value} must be at least 1"
            )
