"""What must not be shown: a list that cannot be read any more holds as it was last read."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recommendation_service.core.config import Settings
from recommendation_service.core.errors import SourceError
from recommendation_service.sources.blacklist import (
    KEPT_NAME,
    QUIET_SECONDS,
    blacklist_stamp,
    missing_blacklist,
    read_blacklist,
)


def settings(folder: Path, named: Path | None = None, *, required: bool = True) -> Settings:
    return Settings(data_dir=folder, blacklist_file=named, blacklist_required=required)


def write(path: Path, content: str | bytes) -> Path:
    """As of an hour ago: a file that nobody is writing to."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(path, (time.time() - 3600, time.time() - 3600))
    return path


def addresses(folder: Path, content: str | bytes) -> set[str]:
    write(folder / "blacklist.txt", content)
    return set(read_blacklist(settings(folder)).addresses)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link_to_nothing_instead(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def loop_instead(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def image_instead(path: Path) -> None:
    write(path, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")


def latin_text_instead(path: Path) -> None:
    write(path, "https://v/a\xf1o.mp4\n".encode("latin-1"))


def wide_text_instead(path: Path) -> None:
    write(path, "a.mp4\n".encode("utf-16"))


LOSSES = [
    Path.unlink,
    folder_instead,
    pipe_instead,
    link_to_nothing_instead,
    loop_instead,
    image_instead,
    latin_text_instead,
    wide_text_instead,
]


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("lose", LOSSES)
def test_a_list_that_cannot_be_read_any_more_holds(
    tmp_path: Path, lose: Callable[[Path], None], *, is_named: bool
) -> None:
    path = write(tmp_path / "blacklist.txt", "a.mp4\nb.mp4\n")
    used = settings(tmp_path, path if is_named else None)
    read_blacklist(used)
    before = blacklist_stamp(used)

    lose(path)

    assert blacklist_stamp(used) != before
    for _ in range(2):  # a restart remembers it as well
        found = read_blacklist(used)
        assert found.addresses == {"a.mp4", "b.mp4"}
        assert found.held is not None
        assert str(path) in found.held
        assert found.warnings == [found.held]
    assert missing_blacklist(used) is None


def test_a_list_that_is_back_holds_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "blacklist.txt", "a.mp4\n")
    read_blacklist(settings(tmp_path))
    path.unlink()
    assert read_blacklist(settings(tmp_path)).held

    write(path, "b.mp4\n")

    found = read_blacklist(settings(tmp_path))
    assert (found.addresses, found.held, found.warnings) == ({"b.mp4"}, None, [])


def test_one_that_was_named_before_holds_beside_another_that_cannot_be_read(tmp_path: Path) -> None:
    read_blacklist(settings(tmp_path, write(tmp_path / "old.txt", "a.mp4\n")))

    assert read_blacklist(settings(tmp_path, tmp_path / "new.txt")).addresses == {"a.mp4"}
    assert read_blacklist(settings(tmp_path)).addresses == {"a.mp4"}


@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("is_named", [True, False])
def test_at_a_first_start_a_list_that_cannot_be_read_stops_the_build_unless_a_setting_allows_it(
    tmp_path: Path, lose: Callable[[Path], None], *, is_named: bool
) -> None:
    path = write(tmp_path / "blacklist.txt", "")
    lose(path)
    named = path if is_named else None
    if lose is Path.unlink and not is_named:
        return  # then there is none, see below

    with pytest.raises(SourceError, match=r"blacklist\.txt.*BLACKLIST_REQUIRED=false"):
        read_blacklist(settings(tmp_path, named))
    assert "BLACKLIST_REQUIRED" in (missing_blacklist(settings(tmp_path, named)) or "")

    allowed = settings(tmp_path, named, required=False)
    found = read_blacklist(allowed)
    assert (found.addresses, found.was_read, len(found.warnings)) == (frozenset(), False, 1)
    assert missing_blacklist(allowed) is None


def test_where_none_is_named_and_none_was_there_there_is_none(tmp_path: Path) -> None:
    found = read_blacklist(settings(tmp_path))

    assert (found.addresses, found.warnings, found.was_read, found.held) == (frozenset(), [], False, None)
    assert missing_blacklist(settings(tmp_path)) is None
    assert not (tmp_path / KEPT_NAME).exists()


def test_an_emptied_list_is_one_and_the_report_says_what_was_on_it(tmp_path: Path) -> None:
    path = write(tmp_path / "blacklist.txt", "a.mp4\nb.mp4\n")
    read_blacklist(settings(tmp_path))

    write(path, "")

    found = read_blacklist(settings(tmp_path))
    assert (found.addresses, found.held) == (frozenset(), None)
    assert found.warnings == [f"{path}: no address is on it any more; there were 2"]
    path.unlink()
    assert read_blacklist(settings(tmp_path)).addresses == frozenset()


def test_a_list_that_was_changed_just_now_may_be_half_written(tmp_path: Path) -> None:
    path = write(tmp_path / "blacklist.txt", "a.mp4\nb.mp4\n")
    read_blacklist(settings(tmp_path))

    path.write_text("new.mp4\na.m")
    fresh = blacklist_stamp(settings(tmp_path))
    assert read_blacklist(settings(tmp_path)).addresses == {"a.mp4", "b.mp4", "new.mp4", "a.m"}

    modified = time.time() - QUIET_SECONDS - 1
    os.utime(path, (modified, modified))
    assert blacklist_stamp(settings(tmp_path)) != fresh
    assert read_blacklist(settings(tmp_path)).addresses == {"new.mp4", "a.m"}


@pytest.mark.parametrize("content", [b"", b"# kept of x\na.mp4\n", b"\0"])
def test_a_kept_list_that_is_damaged_stops_the_build(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / KEPT_NAME, content)

    with pytest.raises(SourceError, match=KEPT_NAME):
        read_blacklist(settings(tmp_path))


def test_a_list_that_cannot_be_kept_stops_the_build(tmp_path: Path) -> None:
    write(tmp_path / "named.txt", "a.mp4\n")
    (tmp_path / "data").write_text("no folder")

    with pytest.raises(SourceError, match="cannot be kept"):
        read_blacklist(settings(tmp_path / "data", tmp_path / "named.txt"))


def test_the_named_list_wins_over_the_default(tmp_path: Path) -> None:
    write(tmp_path / "blacklist.txt", "a.mp4\n")
    named = write(tmp_path / "named.txt", "b.mp4\n")

    assert read_blacklist(settings(tmp_path, named)).addresses == {"b.mp4"}
    assert read_blacklist(settings(tmp_path)).addresses == {"a.mp4"}


def test_a_list_has_comments_blanks_and_any_line_end(tmp_path: Path) -> None:
    content = "# spam\r\nhttps://v/a.mp4#t=1\r\n\r\n \t \n  b.mp4  \n#c.mp4\nd.mp4"

    assert addresses(tmp_path, content) == {"https://v/a.mp4#t=1", "b.mp4", "d.mp4"}


@pytest.mark.parametrize("start", ["\ufeff", "\ufeff ", " \ufeff"])
def test_a_byte_order_mark_is_no_part_of_the_first_address(tmp_path: Path, start: str) -> None:
    assert addresses(tmp_path, f"{start}a.mp4\nb.mp4\n") == {"a.mp4", "b.mp4"}


def test_a_malformed_line_is_named_and_the_others_hold(tmp_path: Path) -> None:
    path = write(tmp_path / "blacklist.txt", b"a.mp4\nb.mp4 c.mp4\n\xff\xfe\nd.mp4\n")

    found = read_blacklist(settings(tmp_path))

    assert found.addresses == {"a.mp4", "d.mp4"}
    assert found.warnings == [
        f"{path}, line 2: expected one address and found 'b.mp4 c.mp4'",
        f"{path}, line 3: not UTF-8",
    ]
