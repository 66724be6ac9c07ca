"""Format words, times and numbers for display."""

from __future__ import annotations


def printable(text: object) -> str:
    """`text` on one line, with control and unprintable characters escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in str(text)
    )


def clock(seconds: float, *, digits: int = 2) -> str:
    """A time such as `0:07.25` or `1:02:03.40`.

    Args:
        seconds: May be negative.
        digits: Decimals of the seconds, 0 to 3.
    """
    ticks = round(abs(seconds) * 10**digits)  # rounded first, so that 59.999 becomes 1:00.00 and not 0:60.00
    whole, fraction = divmod(ticks, 10**digits)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    sign = "-" if seconds < 0 and ticks else ""
    head = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    tail = f".{fraction:0{digits}d}" if digits else ""
    return f"{sign}{head}:{rest:02d}{tail}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 video`, `2 videos`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def times(speed: float) -> str:
    """A speed as a multiple of real time, with two or three significant digits."""
    return f"{speed:.2g}×" if speed < 10 else f"{speed:.0f}×"


def naming_the_file(path: str, error: str) -> str:
    """A failure in one line that starts with the file."""
    line, shown = printable(error), printable(path)
    return line if line.startswith(shown) else f"{shown}: {line}"


def shortened(name: str, *, longest: int = 28) -> str:
    """A name, with its middle cut out if it is too long."""
    return name if len(name) <= longest else f"{name[: longest // 2 - 1]}…{name[-longest // 2 :]}"


def describe_losses(told_s: float | None, missing_s: float, decode_errors: int) -> str:
    """What is missing from a damaged video; empty if nothing is.

    Args:
        told_s: Duration according to the header, in seconds.
        missing_s: Video missing at its end, in seconds.
        decode_errors: Number of damaged or skipped places.
    """
    parts = []
    if missing_s and told_s is not None:
        parts.append(f"{told_s - missing_s:.1f} s of {told_s:.1f} s could be read")
    if decode_errors > len(parts):  # a missing end is itself one of them
        parts.append(f"{counted(decode_errors, 'place')} {'is' if decode_errors == 1 else 'are'} damaged or left out")
    return "; ".join(parts)


def first_line(error: BaseException) -> str:
    """First line of an error's message; its type if it has none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def truncated(text: str, most: int) -> str:
    """A text of at most `most` characters, with `...` for the rest."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
