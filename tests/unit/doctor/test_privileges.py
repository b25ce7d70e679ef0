"""Reading of SHOW GRANTS, as MySQL and MariaDB write it."""

import pytest

from recommendation_service.doctor.findings import Severity
from recommendation_service.doctor.privileges import Grants, check_index, check_select, check_writing, grant


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("GRANT ALL PRIVILEGES ON *.* TO `recs`@`%` WITH GRANT OPTION", True),
        ("GRANT SELECT, INDEX ON `shop`.* TO `recs`@`%`", True),
        ("GRANT SELECT, INDEX ON `shop`.`users` TO 'recs'@'%'", True),
        ("GRANT SELECT ON `shop`.* TO `recs`@`%`", False),
        ("GRANT INDEX ON `shop`.`views` TO `recs`@`%`", False),
        ("GRANT INDEX ON `shop2`.* TO `recs`@`%`", False),
        ("GRANT INDEX ON `sh%`.* TO `recs`@`%`", True),
        ("GRANT INDEX ON `sho_`.* TO `recs`@`%`", True),
        (r"GRANT INDEX ON `sho\_`.* TO `recs`@`%`", False),
        ("GRANT INDEX ON `sho_`.`users` TO `recs`@`%`", False),
        ("GRANT USAGE ON *.* TO `recs`@`%` IDENTIFIED BY PASSWORD '*ABC'", False),
        ("GRANT SELECT (id, name) ON `shop`.`users` TO `recs`@`%`", False),
        ("GRANT `reader`@`%` TO `recs`@`%`", None),
        ("GRANT `reader` TO `recs`@`%`", None),
    ],
)
def test_whether_grants_allow_an_index_on_a_table(line: str, allowed: bool | None) -> None:
    assert Grants((line,)).allows("INDEX", "shop", "users") is allowed


def test_an_escaped_wildcard_is_the_letter() -> None:
    assert Grants((r"GRANT INDEX ON `my\_shop`.* TO `recs`@`%`",)).allows("INDEX", "my_shop", "users") is True


def test_a_grant_names_user_and_host() -> None:
    assert grant("SELECT", "`shop`.`users`", "a@b@10.%") == "GRANT SELECT ON `shop`.`users` TO 'a@b'@'10.%';"


def test_missing_select_is_an_error_with_a_grant_a_table() -> None:
    said = check_select(["likes", "users (name, city)"], "shop", "recs@%")
    assert said.severity is Severity.ERROR
    assert "likes, users (name, city)" in said.sentence
    assert said.advice.splitlines() == [
        "GRANT SELECT ON `shop`.`likes` TO 'recs'@'%';",
        "GRANT SELECT ON `shop`.`users` TO 'recs'@'%';",
    ]


@pytest.mark.parametrize(
    ("lines", "severity", "words"),
    [
        (("GRANT INDEX ON `shop`.* TO `r`@`%`",), Severity.OK, "may create and drop"),
        (("GRANT SELECT ON `shop`.* TO `r`@`%`",), Severity.INFO, "on these tables"),
        (("GRANT INDEX ON `shop`.`users` TO `r`@`%`",), Severity.INFO, "on likes"),
        (("GRANT `role`@`%` TO `r`@`%`",), Severity.INFO, "has a role"),
    ],
)
def test_index_is_remarked_where_it_is_missing(lines: tuple[str, ...], severity: Severity, words: str) -> None:
    said = check_index(Grants(lines), ["users", "likes"], "shop", "r@%")
    assert said.severity is severity
    assert words in said.sentence


def test_a_user_who_may_write_is_remarked_and_one_who_may_not_is_fine() -> None:
    reader = Grants(("GRANT SELECT, INDEX ON `shop`.* TO `r`@`%`",))
    writer = Grants(("GRANT SELECT, INSERT, DROP ON `shop`.* TO `r`@`%`",))
    assert check_writing(reader, ["users"], "shop", "r@%").severity is Severity.OK
    said = check_writing(writer, ["users"], "shop", "r@%")
    assert said.severity is Severity.INFO
    assert "INSERT, DROP" in said.sentence
