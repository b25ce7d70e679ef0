"""What a person needs is never cut: not in a pipe, and not on a narrow terminal."""

from __future__ import annotations

import pytest

from recommendation_service.core.output import print_rows


def test_into_a_pipe_each_row_is_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("name", "n", "what"), [("a" * 90, "7", "two\nlines"), ("b", "12", "[red]text[/red]")], right={1})

    assert capsys.readouterr().out.splitlines() == [
        f"{'name':90}   n  what",
        f"{'a' * 90}   7  two lines",
        f"{'b':90}  12  [red]text[/red]",
    ]
