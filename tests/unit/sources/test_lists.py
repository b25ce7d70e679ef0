"""The table of cities that an operator edits: what is malformed is a warning with its line, and the rest holds."""

import os
from pathlib import Path

import pytest

from recommendation_service.sources.lists import DEFAULT_CITIES, MOST_WARNINGS, Cities, read_cities


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_the_shipped_city_table_has_no_warning() -> None:
    cities, warnings = read_cities(None)

    assert warnings == []
    assert set(cities.spellings.values()) == {"Bogotá", "Medellín", "CDMX", "Monterrey"}


@pytest.mark.parametrize(
    ("spelling", "meant"),
    [
        ("Bogota", "Bogotá"),
        ("bogota", "Bogotá"),
        ("BOGOTÁ", "Bogotá"),
        ("Bogotá D.C.", "Bogotá"),
        ("Medellin", "Medellín"),
        ("Distrito Federal", "CDMX"),
        ("Ciudad de México", "CDMX"),
        ("Nuevo Leon", "Monterrey"),
        ("Nuevo León", "Monterrey"),
        ("  Bogota\t", "Bogotá"),
        ("Pasto", "Pasto"),
    ],
)
def test_each_spelling_is_one_city(spelling: str, meant: str) -> None:
    assert read_cities(None)[0].canonical(spelling, "Colombia") == meant


def test_a_city_whose_accents_are_separate_characters_is_the_same_city() -> None:
    assert read_cities(None)[0].canonical("Bogota\u0301", "Colombia") == "Bogotá"


def test_an_empty_city_is_other_country_or_unknown() -> None:
    cities = Cities({})

    assert cities.canonical(" ", " Chile ") == "Other-Chile"
    assert cities.canonical("", " ") == "Unknown"


def test_a_city_table_of_ones_own_replaces_the_shipped_one(tmp_path: Path) -> None:
    path = write(tmp_path / "cities.csv", '# ours\n\nSta Fe,Santa Fe\n"Cali, Valle" , Cali\n')

    cities, warnings = read_cities(path)

    assert warnings == []
    assert cities.spellings == {"sta fe": "Santa Fe", "cali, valle": "Cali"}


@pytest.mark.parametrize("line", ["Cali", "Cali,", ",Cali", "a,b,c", '"Cali,Cali', ","])
def test_a_malformed_city_line_is_named_and_the_others_hold(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "cities.csv", f"Sta Fe,Santa Fe\n{line}\nBaires,Buenos Aires\n")

    cities, (warning,) = read_cities(path)

    assert cities.spellings == {"sta fe": "Santa Fe", "baires": "Buenos Aires"}
    assert warning == f"{path}, line 2: expected SPELLING,CITY and found {line!r}"


def test_a_city_line_that_no_csv_reader_takes_is_named_and_the_others_hold(tmp_path: Path) -> None:
    path = write(tmp_path / "cities.csv", f"Sta Fe,Santa Fe\n{'x' * 200_000},y\n")

    cities, warnings = read_cities(path)

    assert cities.spellings == {"sta fe": "Santa Fe"}
    assert [f"{path}, line 2" in warning for warning in warnings] == [True]


def test_lines_that_are_not_utf8_are_named_and_the_others_hold(tmp_path: Path) -> None:
    content = "Sta Fe,Santa Fe\nBogotá,Bogotá\n".encode("latin-1") + "Méd,Medellín\n".encode()
    cities, warnings = read_cities(write(tmp_path / "cities.csv", content))

    assert cities.spellings == {"sta fe": "Santa Fe", "méd": "Medellín"}
    assert warnings == [f"{tmp_path / 'cities.csv'}, line 2: not UTF-8"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_city_table_that_cannot_be_read_gives_the_shipped_one(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "cities.csv"
    if is_folder:
        path.mkdir()

    cities, warnings = read_cities(path)

    assert cities == read_cities(None)[0]
    assert str(path) in warnings[0]
    assert warnings[1] == "the city table that ships is used instead"


def test_a_pipe_for_a_city_table_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cities.csv")

    assert read_cities(tmp_path / "cities.csv")[1][0] == f"{tmp_path / 'cities.csv'}: is no file"


def test_of_many_malformed_lines_the_first_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "cities.csv", "Cali\n" * 1_000)

    _, warnings = read_cities(path)

    assert len(warnings) == MOST_WARNINGS + 1
    assert warnings[-1] == f"{path}: {1_000 - MOST_WARNINGS} more lines like these"


def test_an_empty_city_table_is_one(tmp_path: Path) -> None:
    assert read_cities(write(tmp_path / "cities.csv", "")) == (Cities({}), [])


def test_the_shipped_table_is_a_file_of_the_package() -> None:
    assert DEFAULT_CITIES.name == "cities.csv"
    assert DEFAULT_CITIES.is_file()
