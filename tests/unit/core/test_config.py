"""Settings: every problem named at once with its value, no secret ever shown, and where each came from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recommendation_service.core.config import Settings, load_settings, origins_of
from recommendation_service.core.errors import ConfigurationError

SECRET = "hunter2hunter2"
SetEnvironment = Callable[..., None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SetEnvironment:
    """Sets variables; the working directory is an empty one, where a test may write a .env file."""
    monkeypatch.chdir(tmp_path)

    def set_all(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


def problems_of(**overrides: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        load_settings(**overrides)
    assert str(raised.value) == "\n".join(raised.value.problems)
    return raised.value.problems


def test_without_anything_set_the_defaults_hold(environment: SetEnvironment) -> None:
    settings = load_settings()

    assert settings == Settings.model_construct()
    assert settings.source_url.render_as_string() == "sqlite:///var/interacpedia.sqlite"
    assert settings.catalog_dir == Path("var/catalogs")
    assert set(origins_of(settings).values()) == {"default"}


OUT_OF_RANGE = {
    "MYSQL_PORT": "0",
    "MYSQL_POOL_SIZE": "0",
    "MYSQL_CONNECT_TIMEOUT_SECONDS": "601",
    "MYSQL_READ_TIMEOUT_SECONDS": "0",
    "MYSQL_USE_POOLING": "perhaps",
    "API_PORT": "65536",
    "API_PATH": "api",
    "GUNICORN_WORKERS": "0",
    "GUNICORN_TIMEOUT": "-1",
    "GUNICORN_GRACEFUL_TIMEOUT": "0",
    "GUNICORN_KEEPALIVE": "soon",
    "GUNICORN_MAX_REQUESTS": "-1",
    "GUNICORN_LOG_LEVEL": "loud",
    "CATALOG_REFRESH_SECONDS": "0",
    "CATALOG_MAX_AGE_SECONDS": "86401",
    "CATALOG_KEEP": "0",
    "USERS_WINDOW_DAYS": "0",
    "VIDEOS_WINDOW_DAYS": "1.5",
    "CHALLENGES_WINDOW_DAYS": "36501",
    "INTERACTIONS_WINDOW_DAYS": "-90",
    "VIEWS_WINDOW_DAYS": "x",
    "CONNECTIONS_WINDOW_DAYS": "1e3",
    "CORS_ALLOW_ORIGINS": "example.com",
    "LOG_LEVEL": "trace",
    "LOG_FORMAT": "xml",
    "FEED_SEED": "-1",
}


def test_all_values_out_of_range_are_named_at_once_with_their_values(environment: SetEnvironment) -> None:
    environment(**OUT_OF_RANGE)

    problems = problems_of()

    assert {problem.partition(":")[0] for problem in problems} == set(OUT_OF_RANGE)
    for problem in problems:
        name = problem.partition(":")[0]
        assert OUT_OF_RANGE[name] in problem


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_each_value_out_of_range_stops_the_start(environment: SetEnvironment, name: str) -> None:
    environment(**{name: OUT_OF_RANGE[name]})

    (problem,) = problems_of()

    assert problem.startswith(f"{name}: ")
    assert OUT_OF_RANGE[name] in problem


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("MYSQL_PORT", "1", "65535"),
        ("API_PORT", "1", "65535"),
        ("MYSQL_POOL_SIZE", "1", "1000"),
        ("CATALOG_KEEP", "1", "100"),
        ("VIDEOS_WINDOW_DAYS", "1", "36500"),
        ("GUNICORN_WORKERS", "1", "512"),
    ],
)
def test_values_at_the_edges_are_taken(environment: SetEnvironment, name: str, least: str, most: str) -> None:
    for value in (least, most):
        environment(**{name: value})
        assert getattr(load_settings(), name.lower()) == int(value)


CONTRADICTIONS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "two databases": (
        {"MYSQL_HOST": "db", "MYSQL_USER": "recs", "DATABASE_URL": "sqlite:///x"},
        ("MYSQL_HOST", "DATABASE_URL"),
    ),
    "a server without a user": ({"MYSQL_HOST": "db"}, ("MYSQL_HOST", "MYSQL_USER")),
    "a user without a server": ({"MYSQL_USER": "recs"}, ("MYSQL_USER", "MYSQL_HOST")),
    "rebuilt more often than looked": (
        {"CATALOG_REFRESH_SECONDS": "61", "CATALOG_MAX_AGE_SECONDS": "60"},
        ("CATALOG_REFRESH_SECONDS", "61", "CATALOG_MAX_AGE_SECONDS", "60"),
    ),
    "a mapping and a list of who is not personal": (
        {"MAPPING_FILE": "mine.toml", "NOT_PERSONAL_TABLE": "quiet"},
        ("MAPPING_FILE", "NOT_PERSONAL_TABLE"),
    ),
    "a mapping and a blacklist": (
        {"MAPPING_FILE": "mine.toml", "BLACKLIST_FILE": "blacklist.txt"},
        ("MAPPING_FILE", "BLACKLIST_FILE"),
    ),
    "promotion without shadows": (
        {"LEARN_PROMOTION": "gated", "LEARNER": "store"},
        ("LEARN_PROMOTION", "gated", "LEARNER", "store"),
    ),
    "promotion beside a file that is served whatever is promoted": (
        {"LEARN_PROMOTION": "shadow", "LEARNER": "shadow", "POLICY_FILE": "mine.toml"},
        ("LEARN_PROMOTION", "shadow", "POLICY_FILE"),
    ),
    "a stop longer than the time limit": (
        {"GUNICORN_TIMEOUT": "10", "GUNICORN_GRACEFUL_TIMEOUT": "11"},
        ("GUNICORN_TIMEOUT", "10", "GUNICORN_GRACEFUL_TIMEOUT", "11"),
    ),
}


@pytest.mark.parametrize("contradiction", CONTRADICTIONS)
def test_each_contradiction_names_both_settings_and_their_values(
    environment: SetEnvironment, contradiction: str
) -> None:
    variables, named = CONTRADICTIONS[contradiction]
    environment(**variables)

    message = "\n".join(problems_of())

    assert [part for part in named if part not in message] == []


def test_all_contradictions_are_named_at_once(environment: SetEnvironment) -> None:
    environment(
        MYSQL_HOST="db",
        DATABASE_URL="sqlite:///x",
        CATALOG_REFRESH_SECONDS="61",
        CATALOG_MAX_AGE_SECONDS="60",
        GUNICORN_TIMEOUT="10",
        GUNICORN_GRACEFUL_TIMEOUT="11",
    )

    message = "\n".join(problems_of())

    for name in ("DATABASE_URL", "MYSQL_USER", "CATALOG_MAX_AGE_SECONDS", "GUNICORN_GRACEFUL_TIMEOUT"):
        assert name in message


def test_contradictions_and_values_out_of_range_are_named_together(environment: SetEnvironment) -> None:
    environment(API_PORT="0", GUNICORN_TIMEOUT="10", GUNICORN_GRACEFUL_TIMEOUT="11")

    message = "\n".join(problems_of())

    assert "API_PORT" in message
    assert "GUNICORN_GRACEFUL_TIMEOUT" in message


@pytest.mark.parametrize("edge", [("60", "60"), ("59", "60")])
def test_what_does_not_contradict_is_taken(environment: SetEnvironment, edge: tuple[str, str]) -> None:
    environment(
        CATALOG_REFRESH_SECONDS=edge[0],
        CATALOG_MAX_AGE_SECONDS=edge[1],
        GUNICORN_GRACEFUL_TIMEOUT=edge[0],
        GUNICORN_TIMEOUT=edge[1],
    )

    load_settings()


# Secrets.


def test_no_secret_is_in_the_representation(environment: SetEnvironment) -> None:
    environment(
        MYSQL_HOST="db",
        MYSQL_USER="recs",
        MYSQL_PASSWORD=SECRET,
        ADMIN_TOKEN=SECRET,
        API_KEYS=f"{SECRET},{SECRET}",
    )

    settings = load_settings()

    assert settings.mysql_password.get_secret_value() == SECRET
    assert settings.api_keys == (SECRET, SECRET)
    for shown in (repr(settings), str(settings), repr(settings.source_url), str(settings.source_url)):
        assert SECRET not in shown
    assert SECRET in settings.source_url.render_as_string(hide_password=False)


@pytest.mark.parametrize(
    "variables",
    [
        {"DATABASE_URL": f"mssql://recs:{SECRET}@db/x"},
        {"DATABASE_URL": f"postgresql://recs:{SECRET}@db/x?sslmod={SECRET}"},
        {"DATABASE_URL": f"recs:{SECRET}@db/x"},
        {"DATABASE_URL": SECRET},
        {"DATABASE_URL": f"mysql+pymysql://recs:{SECRET}/interacpedia"},
        {"DATABASE_URL": f"mysql+pymysql://recs@db:{SECRET}/interacpedia"},
        {"DATABASE_URL": f"mysql+pymysql://recs:{SECRET}@db/x", "MYSQL_HOST": "db", "MYSQL_USER": "recs"},
        {"ADMIN_TOKEN": SECRET[:7]},
        {"ADMIN_TOKEN": SECRET[:7], "MYSQL_PASSWORD": SECRET, "API_KEYS": SECRET, "API_PORT": "0"},
        {"MYSQL_PASSWORD": SECRET, "MYSQL_HOST": "db"},
    ],
)
def test_no_secret_is_in_a_problem(environment: SetEnvironment, variables: dict[str, str]) -> None:
    environment(**variables)

    with pytest.raises(ConfigurationError) as raised:
        load_settings()

    assert SECRET[:7] not in str(raised.value)
    assert SECRET[:7] not in repr(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("address", ["mysql+pymysql://recs@db:port/x", "x", "", "postgresql://db/x?y=1", "oracle://db"])
def test_an_address_that_is_none_is_said_in_a_sentence(environment: SetEnvironment, address: str) -> None:
    (problem,) = problems_of(database_url=address)

    assert problem.startswith("DATABASE_URL: ")
    assert "invalid literal" not in problem


# Where settings come from.


def test_an_env_file_is_read_and_the_environment_wins(environment: SetEnvironment) -> None:
    Path(".env").write_text("API_PORT=5006\ncatalog_keep=5\nMEDIA_BASE_URL='https://ñ'  # ours\n", encoding="utf-8")
    environment(API_PORT="5007")

    settings = load_settings()

    assert (settings.api_port, settings.catalog_keep, settings.media_base_url) == (5007, 5, "https://ñ")
    origins = origins_of(settings)
    assert origins["api_port"] == "environment"
    assert origins["catalog_keep"] == ".env"
    assert origins["media_base_url"] == ".env"
    assert origins["mysql_port"] == "default"
    assert set(origins) == set(Settings.model_fields)


def test_a_problem_in_the_env_file_is_named(environment: SetEnvironment) -> None:
    Path(".env").write_text("API_PORT=0\n")

    assert problems_of() == ["API_PORT: Input should be greater than or equal to 1 (given: '0')"]


def test_an_env_file_that_is_not_utf8_is_a_problem_in_a_sentence(environment: SetEnvironment) -> None:
    Path(".env").write_bytes("MEDIA_BASE_URL=https://ñ\n".encode("latin-1"))

    assert ".env" in "\n".join(problems_of())


def test_empty_variables_count_as_unset(environment: SetEnvironment) -> None:
    Path(".env").write_text("CATALOG_KEEP=\nAPI_PORT=5006\n")
    environment(MYSQL_HOST="", MYSQL_PORT="", API_KEYS="", TEST_ROW_WORDS="", API_PORT="", ADMIN_TOKEN="")

    settings = load_settings()

    assert settings.model_copy(update={"api_port": 5005}) == Settings.model_construct()
    assert settings.api_port == 5006
    origins = origins_of(settings)
    assert origins.pop("api_port") == ".env"
    assert set(origins.values()) == {"default"}


def test_names_are_taken_in_any_case(environment: SetEnvironment) -> None:
    environment(api_port="5006", Catalog_Keep="4")

    settings = load_settings()

    assert (settings.api_port, settings.catalog_keep) == (5006, 4)
    assert origins_of(settings)["api_port"] == "environment"


def test_unknown_variables_are_nobodys_problem(environment: SetEnvironment) -> None:
    Path(".env").write_text("SOMETHING_ELSE=1\n")
    environment(API_PORTS="x", PATH_TO_API="y")

    load_settings()


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("a", ("a",)),
        ("a,b", ("a", "b")),
        (" a , b ,, ", ("a", "b")),
        ('["a"]', ('["a"]',)),
        (",", ()),
    ],
)
def test_lists_are_comma_separated(environment: SetEnvironment, given: str, taken: tuple[str, ...]) -> None:
    environment(API_KEYS=given, TEST_ROW_WORDS=given)

    settings = load_settings()

    assert settings.api_keys == taken
    assert settings.test_row_words == taken


@pytest.mark.parametrize(
    "origins", ["*", "https://a.com", "http://localhost:3000,https://b.com:8443", "*,https://a.com"]
)
def test_origins_are_a_star_or_scheme_and_host(environment: SetEnvironment, origins: str) -> None:
    environment(CORS_ALLOW_ORIGINS=origins)

    assert load_settings().cors_allow_origins == tuple(origins.split(","))


@pytest.mark.parametrize("origin", ["a.com", "https://a.com/", "https://a.com/x", "ftp://a.com", "https:a.com"])
def test_another_origin_is_refused_by_name(environment: SetEnvironment, origin: str) -> None:
    environment(CORS_ALLOW_ORIGINS=f"https://ok.com,{origin}")

    (problem,) = problems_of()

    assert repr(origin) in problem
    assert "'https://ok.com'" not in problem.partition("(given")[0]


@pytest.mark.parametrize(
    ("in_environment", "in_file", "path", "origin"),
    [
        ("", None, "", "environment"),
        (None, "", "", ".env"),
        ("", "/v2", "", "environment"),
        ("/v2", "", "/v2", "environment"),
        (None, None, "/api", "default"),
    ],
)
@pytest.mark.parametrize("name", ["API_PATH", "api_path"])
def test_an_empty_prefix_is_none(
    environment: SetEnvironment, name: str, in_environment: str | None, in_file: str | None, path: str, origin: str
) -> None:
    if in_file is not None:
        Path(".env").write_text(f"{name}={in_file}\n")
    if in_environment is not None:
        environment(**{name: in_environment})

    settings = load_settings()

    assert settings.api_path == path
    assert origins_of(settings)["api_path"] == origin


@pytest.mark.parametrize("path", ["/a b", "/a?b", "/a#b", "//a", "/a//b", "/ñ", "/a%2Fb", "/a\n", "/a{b}"])
def test_a_prefix_that_no_client_could_call_is_refused(path: str) -> None:
    (problem,) = problems_of(api_path=path)

    assert problem.startswith("API_PATH: must ")


@pytest.mark.parametrize("path", ["", "/api", "/a/b", "/v1.2/a_b~c-d"])
def test_a_prefix_is_taken(path: str) -> None:
    assert load_settings(api_path=path).api_path == path


@pytest.mark.parametrize("path", ["api", "/api/", "/", "/{x}"])
def test_another_prefix_is_refused(path: str) -> None:
    (problem,) = problems_of(api_path=path)

    assert problem == f"API_PATH: must be empty or begin with / and not end with one (given: {path!r})"


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().api_port = 1


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


# The source.


def test_mysql_settings_name_the_source(environment: SetEnvironment) -> None:
    environment(MYSQL_HOST="db", MYSQL_PORT="3307", MYSQL_USER="re:cs", MYSQL_PASSWORD="p@/:ß", MYSQL_DB="inter")

    url = load_settings().source_url

    assert url.drivername == "mysql+pymysql"
    assert (url.host, url.port, url.username, url.password) == ("db", 3307, "re:cs", "p@/:ß")
    assert url.database == "inter"
    assert url.query == {"charset": "utf8mb4"}


def test_a_user_without_a_password_has_none(environment: SetEnvironment) -> None:
    environment(MYSQL_HOST="db", MYSQL_USER="recs")

    assert load_settings().source_url.password is None


def test_an_address_names_the_source(environment: SetEnvironment) -> None:
    environment(DATABASE_URL=f"mariadb+pymysql://recs:{SECRET}@db/inter")

    url = load_settings().source_url

    assert url.get_backend_name() == "mariadb"
    assert url.password == SECRET
