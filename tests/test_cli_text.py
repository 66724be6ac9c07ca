"""Times, numbers and names as people read them, and the work that Ctrl-C can leave."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tallformer_infer.commands.progress import JsonReporter, TerminalReporter
from tallformer_infer.commands.tables import actions_table
from tallformer_infer.stopping import run_interruptibly
from tallformer_infer.text import clock, counted, first_line, printable, times
from tests.result_samples import action, result, untrained


def drawn(shown, *, width=100):
    console = Console(file=io.StringIO(), width=width)
    console.print(shown)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "digits", "text"),
    [
        (0, 2, "0:00.00"),
        (7.25, 2, "0:07.25"),
        (59.999, 2, "1:00.00"),
        (3599.996, 2, "1:00:00.00"),
        (3723.4, 1, "1:02:03.4"),
        (75.5, 0, "1:16"),
        (-1.5, 2, "-0:01.50"),
        (-0.001, 2, "0:00.00"),
    ],
)
def test_clock_of(seconds, digits, text):
    assert clock(seconds, digits=digits) == text


@given(st.floats(0, 1e6), st.integers(0, 3))
def test_clock_is_within_half_of_its_last_digit(seconds, digits):
    parts = [float(part) for part in clock(seconds, digits=digits).split(":")]

    read = sum(part * 60**power for power, part in enumerate(reversed(parts)))
    assert abs(read - seconds) <= 0.5 * 10**-digits + 1e-6
    assert all(part < 60 for part in parts[1:])


def test_first_line_of_an_error_is_never_empty():
    assert first_line(ValueError("no such op\nat node 3")) == "no such op"
    assert first_line(MemoryError()) == "MemoryError"


def test_one_and_many_are_counted():
    assert [counted(number, "video") for number in (0, 1, 2)] == ["0 videos", "1 video", "2 videos"]


def test_speed_has_the_digits_that_matter():
    assert [times(speed) for speed in (0.123, 9.87, 12.34, 1234.5)] == ["0.12×", "9.9×", "12×", "1234×"]


@pytest.mark.parametrize("text", ["a\nb", "a\x1b[31mb", "a\u202eb", "a\udcffb", "a\tb"])
def test_printable_has_nothing_that_a_terminal_obeys(text):
    shown = printable(text)

    assert shown.isprintable()
    assert shown.startswith("a\\")
    assert shown.encode()


def test_printable_leaves_words_of_any_language_alone():
    assert printable("Sprünge 跳 [red].mp4") == "Sprünge 跳 [red].mp4"


def test_table_without_actions_says_so():
    assert "no action found" in drawn(actions_table(result(), rows=5))


def test_table_with_rows_zero_counts_the_actions():
    shown = drawn(actions_table(result(actions=(action(1, 2),)), rows=0))

    assert "1 action; --rows 1 shows all" in shown
    assert "wave" not in shown


def test_table_takes_names_as_they_are():
    shown = drawn(actions_table(result("[b]a.mp4", (action(1, 2, label="[/red]x\x1b"),)), rows=5))

    assert "[b]a.mp4" in shown
    assert r"[/red]x\x1b" in shown


def test_table_tells_of_damage_and_only_of_damage():
    assert "1 place is damaged or left out" in drawn(actions_table(result(decode_errors=1), rows=5))
    assert "2 places are damaged or left out" in drawn(actions_table(result(decode_errors=2), rows=5))
    assert "damaged" not in drawn(actions_table(result(decode_errors=0), rows=5))


@pytest.mark.parametrize(
    ("errors", "text"),
    [(1, "2.7 s of 10.0 s could be read"), (3, "2.7 s of 10.0 s could be read; 3 places are damaged or left out")],
)
def test_a_missing_end_is_told_in_tables_lines_and_log(capsys, errors, text):
    cut = result(decode_errors=errors, missing_s=7.32)

    TerminalReporter(quiet=True, show=None).done(cut)
    line = capsys.readouterr().err
    JsonReporter(quiet=True).done(cut)
    (event,) = map(json.loads, capsys.readouterr().err.splitlines())

    assert f"  {text}\n" in drawn(actions_table(cut, rows=5))
    assert line == f"tallformer: warning: a.mp4: {text}\n"
    assert (event["event"], event["path"], event["message"]) == ("warning", "a.mp4", text)


def test_table_of_an_untrained_model_says_so():
    assert "weights are random" in drawn(actions_table(result(provenance=untrained()), rows=5))
    assert "weights are random" not in drawn(actions_table(result(), rows=5))


def test_table_fits_eighty_columns():
    long = result("a.mp4", tuple(action(3600 + i, 3601 + i, "VolleyballSpiking", 0.999) for i in range(3)))

    assert max(map(len, drawn(actions_table(long, rows=2), width=80).splitlines())) <= 80
    assert len(drawn(actions_table(long, rows=2), width=80).splitlines()) == 8


def test_work_hands_back_what_it_returns_or_raises():
    assert run_interruptibly(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        run_interruptibly(lambda: 1 // 0)
