"""Settings: from the environment or a ``.env`` file, validated whole before anything starts."""

import os
import re
import ssl
from datetime import UTC, timezone, tzinfo
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.config import JsonDict
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from recommendation_service.core.errors import ConfigurationError
from recommendation_service.core.local_time import zone_of
from recommendation_service.core.postgresql_address import is_postgresql, postgresql_address, problem_of
from recommendation_service.mappings.settings import DATABASE, OperatorSettings

ENV_FILE = ".env"
# Settings that say something by being empty; empty values of all others count as unset.
MAY_BE_EMPTY = ("api_path",)

Seconds: JsonDict = {"unit": "seconds"}
Days: JsonDict = {"unit": "days"}
Milliseconds: JsonDict = {"unit": "milliseconds"}
Mebibytes: JsonDict = {"unit": "MiB"}

_BETWEEN = "\n"  # of several contradictions in one message

Port = Annotated[int, Field(ge=1, le=65535)]
WindowDays = Annotated[int, Field(ge=1, le=36500, json_schema_extra=Days)]
CommaSeparated = Annotated[tuple[str, ...], NoDecode]


def _given(env_file: str | None = ENV_FILE) -> dict[str, tuple[str, str]]:
    """Each variable that is set, by its name in lower case: its value, and whether environment or .env file has it."""
    given: dict[str, tuple[str, str]] = {}
    in_file = {} if env_file is None else dotenv_values(env_file)
    for origin, variables in ((".env", in_file), ("environment", os.environ)):
        for name, value in variables.items():
            if value or (value == "" and name.lower() in MAY_BE_EMPTY):
                given[name.lower()] = value, origin
    return given


class Settings(OperatorSettings):
    """Every setting of the service. Names in the environment are the same in capitals."""

    model_config = SettingsConfigDict(env_file=ENV_FILE, extra="ignore", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The sources for both look at each field's type anew, each time, which takes 5 ms; this takes one.
        found = _given(getattr(dotenv_settings, "env_file", None))
        given = {name: value for name, (value, _) in found.items() if name in settings_cls.model_fields}
        return init_settings, InitSettingsSource(settings_cls, given)

    # The operator's database.
    mysql_host: str | None = Field(None, description="MySQL or MariaDB server; unset: the embedded database")
    mysql_port: Port = Field(3306, description="its port")
    mysql_user: str | None = Field(None, description="its user")
    mysql_password: SecretStr = Field(SecretStr(""), description="that user's password")
    mysql_db: str = Field(DATABASE, description="the operator's database", min_length=1)
    mysql_pool_size: int = Field(20, ge=1, le=1000, description="most connections of a pool")
    mysql_use_pooling: bool = Field(True, description="false: open a connection for each use")
    mysql_connect_timeout_seconds: int = Field(
        5, ge=1, le=600, description="limit on connecting, handshake included", json_schema_extra=Seconds
    )
    mysql_read_timeout_seconds: int = Field(
        60, ge=1, le=3600, description="limit on waiting for a result", json_schema_extra=Seconds
    )
    mysql_time_zone: str = Field(
        "UTC", description="zone of the times in the operator's tables: a name such as America/Bogota, or an offset"
    )
    mysql_tls: Literal["off", "preferred", "verified"] = Field(
        "preferred",
        description="preferred: encrypted where the server offers it; verified: always, and the certificate is checked",
    )
    mysql_ca_file: Path | None = Field(
        None, description="certificates of the authorities that are trusted for verified; unset: the system's"
    )
    database_url: SecretStr | None = Field(
        None, description="SQLAlchemy address of the operator's tables, instead of MYSQL_*"
    )
    mysql_replica_urls: SecretStr | None = Field(
        None, description="comma-separated SQLAlchemy addresses of replicas to read from"
    )
    mysql_max_replica_lag_seconds: int = Field(
        30, ge=1, le=86400, description="a replica that is further behind is not read from", json_schema_extra=Seconds
    )

    mapping_file: Path | None = Field(
        None, description="TOML file that says what your tables mean; unset: the first operator's"
    )

    # The service's address.
    api_path: str = Field("/api", description="prefix of the endpoints")
    api_host: str = Field("0.0.0.0", description="address that `recs serve` binds")  # noqa: S104
    api_port: Port = Field(5005, description="port that `recs serve` binds")
    video_as_image: bool = Field(True, description="false: the image of an item without a picture is empty")
    item_times_with_zone: bool = Field(False, description="true: times of items end in Z, as they are UTC")

    # Who may call.
    api_keys: CommaSeparated = Field(
        (), description="comma-separated; where set, every feed call must bear one", repr=False
    )
    admin_token: SecretStr | None = Field(
        None, description="bearer token of administrators; unset: their endpoints answer 403"
    )
    cors_allow_origins: CommaSeparated = Field((), description="comma-separated origins that browsers may call from")

    # How much may be asked for.
    rate_limit_per_key: float = Field(
        0.0,
        ge=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="feed requests an API key may make; 0: any number",
        json_schema_extra={"unit": "requests/second"},
    )
    rate_limit_per_user: float = Field(
        0.0,
        ge=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="feed requests for one user, or from one address for anonymous ones; 0: any number",
        json_schema_extra={"unit": "requests/second"},
    )
    shed_load_after_seconds: float = Field(
        2.0,
        gt=0,
        le=60,
        allow_inf_nan=False,
        description="a worker that stays so far behind refuses feeds with 503 until it has caught up",
        json_schema_extra=Seconds,
    )

    # Gunicorn.
    gunicorn_workers: int | None = Field(
        None, ge=1, le=512, description="worker processes; unset: two for each core that may be used"
    )
    gunicorn_bind: str = Field("0.0.0.0:5005", description="address and port, or unix:PATH")
    gunicorn_timeout: int = Field(
        120, ge=1, description="a worker silent for so long is restarted", json_schema_extra=Seconds
    )
    gunicorn_graceful_timeout: int = Field(
        30, ge=1, description="time that a stop may take; requests in flight have 6 s less", json_schema_extra=Seconds
    )
    gunicorn_keepalive: int = Field(
        65, ge=1, description="an idle connection is kept for so long", json_schema_extra=Seconds
    )
    gunicorn_max_requests: int = Field(0, ge=0, description="a worker ends after so many requests; 0: never")
    gunicorn_preload_app: bool = Field(True, description="load once and fork, so that workers share memory")
    gunicorn_log_level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        "info", description="Gunicorn's own log level"
    )

    # Limits at the door.
    client_header_timeout_seconds: int = Field(
        10, ge=1, le=3600, description="a request's head has to come within so long", json_schema_extra=Seconds
    )
    client_body_timeout_seconds: int = Field(
        30, ge=1, le=3600, description="and then its body", json_schema_extra=Seconds
    )
    answer_timeout_seconds: int = Field(
        60, ge=1, le=3600, description="a client has to take its answer within so long", json_schema_extra=Seconds
    )
    max_header_bytes: int = Field(
        65536,
        ge=8192,
        le=1 << 20,
        description="most that a request's line and headers may take",
        json_schema_extra={"unit": "bytes"},
    )
    max_connections: int | None = Field(
        None, ge=1, le=1_000_000, description="open connections of a worker; unset: 4096, or what `ulimit -n` allows"
    )
    max_connections_per_address: int | None = Field(
        None, ge=1, le=1_000_000, description="of these, from one address that is no proxy; unset: a quarter"
    )

    # Redis.
    redis_host: str | None = Field(
        None, description="Redis or Valkey server, or any node of a cluster; unset, and no Sentinels: no Redis"
    )
    redis_port: Port = Field(6379, description="its port")
    redis_db: int = Field(0, ge=0, le=1_000_000, description="its database")
    redis_username: str | None = Field(None, description="its user, of an access control list; unset: the default one")
    redis_password: SecretStr = Field(SecretStr(""), description="that user's password")
    redis_scheme: Literal["redis", "tls"] = Field("redis", description="tls: encrypted, and the certificate is checked")
    redis_ca_file: Path | None = Field(
        None, description="certificates of the authorities that are trusted for tls; unset: the system's"
    )
    redis_sentinels: CommaSeparated = Field(
        (), description="comma-separated Sentinels to ask which server is the master, instead of REDIS_HOST"
    )
    redis_sentinel_master: str = Field("mymaster", min_length=1, description="the Sentinels' name for the master")
    redis_sentinel_username: str | None = Field(None, description="the Sentinels' own user; unset: the default one")
    redis_sentinel_password: SecretStr = Field(SecretStr(""), description="that user's password")
    redis_cluster: bool = Field(False, description="true: REDIS_HOST is a node of a Redis Cluster")
    redis_space: str | None = Field(
        None,
        pattern=r"^[0-9A-Za-z_.-]{1,64}$",
        description="part of every key in Redis, the same on all machines of a service; unset: of the database",
    )
    redis_timeout_milliseconds: int = Field(
        5, ge=1, le=1000, description="most that Redis may cost a request", json_schema_extra=Milliseconds
    )

    # Users outside the catalog.
    cache_l1_megabytes: int = Field(
        32, ge=1, le=65536, description="memory of each worker for what was read of users", json_schema_extra=Mebibytes
    )
    activity_ttl_seconds: int = Field(
        86400, ge=60, le=86400 * 30, description="what was read of a user is kept in Redis", json_schema_extra=Seconds
    )
    user_read_timeout_milliseconds: int = Field(
        20,
        ge=1,
        le=10_000,
        description="a feed waits for what is read of its user, then goes on without",
        json_schema_extra=Milliseconds,
    )

    # Files.
    data_dir: Path = Field(Path("var"), description="folder of what the service keeps")
    data_dir_wait_seconds: int = Field(
        60,
        ge=0,
        le=3600,
        description="a start waits so long for another container or machine to let go of DATA_DIR",
        json_schema_extra=Seconds,
    )
    blacklist_file: Path | None = Field(
        None,
        description="video addresses never to show, one a line; unset: DATA_DIR/blacklist.txt if present",
    )
    blacklist_required: bool = Field(
        True, description="false: where the blacklist never could be read, nothing is blacklisted"
    )
    not_personal_table: str | None = Field(
        None,
        pattern=r"^[0-9A-Za-z_$]{1,64}(\.[0-9A-Za-z_$]{1,64})?$",
        description="table or view whose user_id names who gets feeds that are not personal; unset: nobody",
    )
    cities_file: Path | None = Field(None, description="table of city spellings; unset: the one that ships")
    policy_file: Path | None = Field(
        None, description="ranking policy; unset: the current version of `recs policy`, else the one that ships"
    )
    policy_keep: int = Field(
        10, ge=1, le=1000, description="policy versions kept", json_schema_extra={"unit": "versions"}
    )

    # The catalog.
    catalog_refresh_seconds: int = Field(
        10, ge=1, le=86400, description="a change is in feeds within so long", json_schema_extra=Seconds
    )
    catalog_max_age_seconds: int = Field(
        3600,
        ge=1,
        le=86400,
        description="rebuilt after so long even where nothing changed, as ages move on",
        json_schema_extra=Seconds,
    )
    collaborative: bool = Field(
        True, description="what people take together counts, where there are enough interactions"
    )
    collaborative_refresh_seconds: int = Field(
        900,
        ge=0,
        le=604800,
        description="what people take together is computed anew by the first build after so long",
        json_schema_extra=Seconds,
    )
    collaborative_window_days: WindowDays = Field(
        180, description="ratings, matches and saves that say what people take together"
    )
    catalog_keep: int = Field(
        3, ge=1, le=100, description="catalog versions kept", json_schema_extra={"unit": "versions"}
    )
    catalog_hold_share: float = Field(
        0.5,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="a catalog that would lose more than this share of its items of a type at once is held back",
    )
    catalog_hold_seconds: int = Field(
        3600,
        ge=0,
        le=86400 * 30,
        description="and published after so long all the same; 0: at once",
        json_schema_extra=Seconds,
    )
    catalog_refresher: bool = Field(True, description="false: another process or machine builds the catalog")

    # Time.
    clock_tolerance_seconds: int = Field(
        300,
        ge=1,
        le=86400,
        description="by so much this machine's clock, the database's and what was last seen may differ",
        json_schema_extra=Seconds,
    )
    clock_wait_seconds: int = Field(
        86400,
        ge=0,
        le=86400 * 30,
        description="after they differed, nothing is deleted for its age for so long",
        json_schema_extra=Seconds,
    )

    # Events: what feeds showed, and what people did.
    record_events: bool = Field(True, description="false: feeds are not recorded, and feedback is refused")
    event_log_megabytes: int = Field(
        1024,
        ge=32,
        le=1 << 20,
        description="most that the events waiting for the database may take of the disk",
        json_schema_extra={"unit": "MiB"},
    )
    reader_log_share: float = Field(
        0.5,
        ge=0,
        le=0.7,
        description="of the log, to which readers other than the flush may fill it; beyond that they are cut off",
    )
    flush_interval_seconds: int = Field(
        900, ge=1, le=86400, description="events are in the database within so long", json_schema_extra=Seconds
    )
    flush_threshold_activities: int = Field(
        50, ge=1, le=1_000_000, description="or as soon as one user has so many that are not"
    )
    events_retention_days: int = Field(
        400, ge=1, le=36500, description="rows of recs_events are deleted after so long", json_schema_extra=Days
    )
    decision_share: float = Field(
        0.05, ge=0, le=1, description="of all feeds, which are recorded with what else they could have held"
    )
    decision_megabytes: int = Field(
        1024,
        ge=64,
        le=1 << 20,
        description="most that decisions may take of the disk; the oldest give way",
        json_schema_extra={"unit": "MiB"},
    )
    decision_retention_days: int = Field(
        30, ge=1, le=36500, description="decisions are deleted after so long", json_schema_extra=Days
    )
    event_flusher: bool = Field(True, description="false: nothing here brings events into the database")

    # Learning from what people do.
    learner: Literal["off", "store", "shadow"] = Field(
        "off",
        description="store: what is learned becomes policy versions; shadow: the newest is loaded beside, too",
    )
    learning_file: Path | None = Field(
        None,
        description="what each event is worth, which rows are events, how fast it forgets; unset: the one that ships",
    )
    learn_publish_seconds: int = Field(
        900,
        ge=1,
        le=86400,
        description="a version is published so often, if anything was learned",
        json_schema_extra=Seconds,
    )
    learn_promotion: Literal["off", "shadow", "gated"] = Field(
        "off",
        description="shadow: learned versions are weighed on the log, with a verdict; gated: what is better is served, "
        "and what is not any more falls back",
    )
    learn_trial_feeds: int = Field(
        50_000,
        ge=500,
        le=10_000_000,
        description="feeds after which a version that is not found to be better gives way to a newer one",
    )
    learn_confidence: float = Field(
        0.99,
        ge=0.5,
        lt=1,
        description="how sure it has to be that a version is better",
    )
    learn_tolerated_loss: float = Field(
        0.0, ge=0, le=0.5, description="a version may bring less than what serves by this share of it"
    )
    learn_step_support: float = Field(
        0.3,
        gt=0,
        le=1,
        description="a learned version goes so far from what serves that its feeds are worth this share of as many",
    )
    learn_live_share: float = Field(
        0.2,
        ge=0,
        le=0.4,
        description="gated: of all feeds, which each version that is weighed makes itself, so that it may be far away",
    )
    learn_pending_feeds: int = Field(
        200_000, ge=100, le=100_000_000, description="feeds that are waited for, for what people do with them"
    )

    # What a user has seen.
    seen_state: bool = Field(True, description="false: feeds do not remember what they showed")
    session_ttl_seconds: int = Field(
        3600,
        ge=1,
        le=86400 * 30,
        description="a session ends so long after its last feed; until then nothing it showed comes back",
        json_schema_extra=Seconds,
    )
    seen_served_seconds: int = Field(
        1800, ge=0, le=86400 * 30, description="what a feed showed stays away for so long", json_schema_extra=Seconds
    )
    seen_impressed_days: int = Field(
        30,
        ge=0,
        le=3650,
        description="what a person was seen to look at stays away for so long",
        json_schema_extra=Days,
    )
    seen_acted_days: int = Field(
        30, ge=0, le=3650, description="what a person acted on stays away for so long", json_schema_extra=Days
    )
    seen_megabytes: int = Field(
        4096,
        ge=16,
        le=1 << 20,
        description="most that the memory of what users have seen may take of the disk",
        json_schema_extra={"unit": "MiB"},
    )
    kept_pools_megabytes: int = Field(
        64,
        ge=0,
        le=1 << 16,
        description="most that pools kept between feeds take of memory, of all workers; 0: each is looked for anew",
        json_schema_extra={"unit": "MiB"},
    )

    # What is eligible.
    users_window_days: WindowDays = Field(90, description="users created or updated since are loaded")
    interactions_window_days: WindowDays = Field(90, description="ratings, matches and saves that count for a user")
    views_window_days: WindowDays = Field(30, description="views that count for a user")
    connections_window_days: WindowDays = Field(90, description="connections that count")
    test_row_words: CommaSeparated = Field(
        ("prueba", "test"), description="comma-separated whole words that mark a test row"
    )

    # Logs and randomness.
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_format: Literal["json", "console"] = Field("json", description="one JSON object a line, or for people")
    access_log: bool = Field(False, description="a line for every request")
    feed_seed: int = Field(0, ge=0, description="part of the seed of every feed's randomness")

    @field_validator("api_keys", "cors_allow_origins", "test_row_words", "redis_sentinels", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("api_path")
    @classmethod
    def _path(cls, value: str) -> str:
        if value and (not value.startswith("/") or value.endswith("/") or "{" in value):
            raise ValueError("must be empty or begin with / and not end with one")
        if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", value):
            raise ValueError("must have only letters, digits and . _ ~ - between single /")
        return value

    @field_validator("cors_allow_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [o for o in value if o != "*" and not (o.startswith(("http://", "https://")) and o.count("/") == 2)]
        if wrong:
            raise ValueError(f"{wrong} must be * or scheme://host[:port]")
        return value

    @field_validator("redis_sentinels")
    @classmethod
    def _sentinels(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for sentinel in value:
            host, _, port = sentinel.rpartition(":")
            if not host.strip("[]") or not port.isdecimal() or not 1 <= int(port) <= 65535:
                raise ValueError(f"{sentinel} must be host:port")
        return value

    @field_validator("admin_token")
    @classmethod
    def _token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 8:
            raise ValueError("must have at least 8 characters")
        return value

    @field_validator("mysql_time_zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        zone_of(value)
        return value

    @field_validator("mysql_ca_file", "redis_ca_file")
    @classmethod
    def _authorities(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                ssl.create_default_context(cafile=value)
            except ssl.SSLError:
                raise ValueError("holds no certificate in PEM form") from None
            except OSError as error:
                raise ValueError(f"cannot be read: {error.strerror}") from None
        return value

    @field_validator("mysql_replica_urls")
    @classmethod
    def _replicas(cls, value: SecretStr | None) -> SecretStr | None:
        for number, replica in enumerate(_parts(value), 1):
            try:
                url = make_url(replica)
            except (ArgumentError, ValueError):
                url = None
            if (
                url is None
                or not (is_postgresql(url) or url.get_backend_name() in {"mysql", "mariadb"})
                or not url.host
            ):
                raise ValueError(
                    f"number {number} is not an address such as mysql://user:password@host/database or "
                    "postgresql://user:password@host/database"
                )
            if is_postgresql(url) and (problem := problem_of(url)):
                raise ValueError(f"number {number} {problem}")
        return value

    @field_validator("database_url")
    @classmethod
    def _address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                url = make_url(value.get_secret_value())
            except (ArgumentError, ValueError):
                raise ValueError(
                    "is not an SQLAlchemy address such as mysql+pymysql://user:password@host/database"
                ) from None
            if is_postgresql(url):
                if problem := problem_of(url):
                    raise ValueError(problem)
            elif url.get_backend_name() not in {"mysql", "mariadb", "sqlite"}:
                raise ValueError(
                    f"names {url.get_backend_name()}; the service reads mysql, mariadb, sqlite or postgresql"
                )
        return value

    def _of_postgresql(self) -> list[str]:
        problems = []
        if isinstance(self.database_zone, timezone) and self.database_zone is not UTC:
            problems.append(
                f"MYSQL_TIME_ZONE={self.mysql_time_zone} is an offset, whose sign PostgreSQL reads the other way: name "
                "a zone, such as America/Bogota"
            )
        if self.mysql_tls != "preferred":
            mode = "disable" if self.mysql_tls == "off" else "verify-full&sslrootcert=FILE"
            problems.append(
                f"MYSQL_TLS={self.mysql_tls} is not for PostgreSQL, whose address says it: "
                f"DATABASE_URL=…?sslmode={mode}"
            )
        return problems

    def _beside_a_mapping(self) -> list[str]:
        """What holds for the first operator's tables alone must not be thought to hold."""
        problems = []
        if self.not_personal_table is not None:
            problems.append("NOT_PERSONAL_TABLE is not read under MAPPING_FILE: a request says `personal: false`")
        if self.blacklist_file is not None:
            problems.append(
                "BLACKLIST_FILE is not read under MAPPING_FILE: leave such items out in the mapping's queries"
            )
        return problems

    @model_validator(mode="after")
    def _fit_together(self) -> "Settings":
        problems = []
        if self.mysql_host and self.database_url:
            problems.append("MYSQL_HOST and DATABASE_URL name two databases: set one")
        if self.learn_promotion != "off" and self.learner != "shadow":
            problems.append(
                f"LEARN_PROMOTION is {self.learn_promotion}, which needs LEARNER=shadow, and LEARNER is {self.learner}"
            )
        if self.learn_promotion != "off" and self.policy_file is not None:
            problems.append(
                f"LEARN_PROMOTION is {self.learn_promotion}, and POLICY_FILE is served whatever is promoted"
            )
        if self.mapping_file is not None:
            problems += self._beside_a_mapping()
        if self.mysql_host and not self.mysql_user:
            problems.append("MYSQL_HOST is set but MYSQL_USER is not")
        if self.mysql_user and not self.mysql_host:
            problems.append("MYSQL_USER is set but MYSQL_HOST is not")
        if self.mysql_replica_urls and self.source_url.get_backend_name() == "sqlite":
            problems.append("MYSQL_REPLICA_URLS is set but there is no server: set MYSQL_HOST or DATABASE_URL")
        elif {is_postgresql(url) for url in self.replica_urls} - {is_postgresql(self.source_url)}:
            problems.append("MYSQL_REPLICA_URLS and DATABASE_URL name servers of different kinds")
        if is_postgresql(self.source_url):
            problems += self._of_postgresql()
        if self.mysql_ca_file and self.mysql_tls != "verified":
            problems.append(f"MYSQL_CA_FILE is set, and MYSQL_TLS={self.mysql_tls} checks no certificate")
        drivers = {url.get_driver_name() for url in (self.source_url, *self.replica_urls)}
        if self.mysql_tls == "verified" and drivers - {"pymysql", "pysqlite", "psycopg"}:
            problems.append("MYSQL_TLS=verified holds for PyMySQL, and an address names another driver")
        if self.rate_limit_per_key > 0 and not self.api_keys:
            problems.append("RATE_LIMIT_PER_KEY is set but API_KEYS is not")
        if self.redis_host and self.redis_sentinels:
            problems.append("REDIS_HOST and REDIS_SENTINELS both say where Redis is: set one")
        if self.redis_cluster and not self.redis_host:
            problems.append("REDIS_CLUSTER is set but REDIS_HOST, one of its nodes, is not")
        if self.redis_cluster and self.redis_db:
            problems.append("REDIS_CLUSTER is set, and a cluster has no database but REDIS_DB 0")
        if self.catalog_max_age_seconds < self.catalog_refresh_seconds:
            problems.append(
                f"CATALOG_MAX_AGE_SECONDS ({self.catalog_max_age_seconds}) must not be less than "
                f"CATALOG_REFRESH_SECONDS ({self.catalog_refresh_seconds})"
            )
        if self.gunicorn_graceful_timeout > self.gunicorn_timeout:
            problems.append(
                f"GUNICORN_GRACEFUL_TIMEOUT ({self.gunicorn_graceful_timeout}) must not exceed "
                f"GUNICORN_TIMEOUT ({self.gunicorn_timeout})"
            )
        if problems:
            raise ValueError(_BETWEEN.join(problems))
        return self

    @property
    def source_url(self) -> URL:
        """The operator's tables: MYSQL_*, DATABASE_URL, or the embedded database in DATA_DIR."""
        if self.mysql_host:
            return URL.create(
                "mysql+pymysql",
                username=self.mysql_user,
                password=self.mysql_password.get_secret_value() or None,
                host=self.mysql_host,
                port=self.mysql_port,
                database=self.mysql_db,
                query={"charset": "utf8mb4"},
            )
        if self.database_url:
            return with_driver(make_url(self.database_url.get_secret_value()))
        return URL.create("sqlite", database=str(self.data_dir / f"{DATABASE}.sqlite"))

    @property
    def has_redis(self) -> bool:
        return bool(self.redis_host or self.redis_sentinels)

    @property
    def replica_urls(self) -> tuple[URL, ...]:
        """Each with a driver, and the primary's database where it names none."""
        urls = (with_driver(make_url(address)) for address in _parts(self.mysql_replica_urls))
        return tuple(
            url.set(
                database=url.database or self.source_url.database,
                query=url.query or ({} if is_postgresql(url) else {"charset": "utf8mb4"}),
            )
            for url in urls
        )

    @property
    def item_time_zone(self) -> str:
        """Of items' times: Z, which they bear, or the tables' own zone, which they do not bear."""
        return "Z" if self.item_times_with_zone else self.mysql_time_zone

    @property
    def oldest_interactions_days(self) -> int:
        """Of the ratings, matches and saves that builds read."""
        return max(self.interactions_window_days, self.collaborative_window_days if self.collaborative else 0)

    @property
    def database_zone(self) -> tzinfo:
        """Of the times in the operator's tables."""
        return zone_of(self.mysql_time_zone)

    @property
    def policy_dir(self) -> Path:
        return self.data_dir / "policies"

    @property
    def catalog_dir(self) -> Path:
        return self.data_dir / "catalogs"

    @property
    def events_dir(self) -> Path:
        return self.data_dir / "events"

    @property
    def decisions_dir(self) -> Path:
        return self.data_dir / "decisions"

    @property
    def learning_dir(self) -> Path:
        return self.data_dir / "learning"

    @property
    def editors_dir(self) -> Path:
        return self.data_dir / "editors"

    @property
    def seen_dir(self) -> Path:
        return self.data_dir / "seen"


def with_driver(url: URL) -> URL:
    """PyMySQL where an address names no driver, as mysql:// and mariadb:// do; psycopg for PostgreSQL."""
    if is_postgresql(url):
        return postgresql_address(url)
    return url if "+" in url.drivername or url.drivername == "sqlite" else url.set(drivername="mysql+pymysql")


def _parts(value: SecretStr | None) -> list[str]:
    """Of a comma-separated secret."""
    return [part.strip() for part in value.get_secret_value().split(",") if part.strip()] if value else []


def load_settings(**overrides: Any) -> Settings:
    """Read and validate the settings; every problem is named at once.

    Raises ConfigurationError.
    """
    try:
        return Settings(**overrides)
    except UnicodeDecodeError:
        raise ConfigurationError([f"{ENV_FILE} is not UTF-8"]) from None
    except OSError as error:
        raise ConfigurationError([f"{error.filename or ENV_FILE} cannot be read: {error.strerror}"]) from None
    except ValidationError as error:
        problems = [_problem(problem) for problem in error.errors()]
        wrong = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
    # Whether settings fit together is checked only where each is valid: put defaults in the place of
    # those that are not, so that everything is named at once.
    try:
        if wrong:
            Settings(**overrides | {name: Settings.model_fields[name].default for name in wrong})
    except ValidationError as error:
        problems += [_problem(problem) for problem in error.errors() if not problem["loc"]]
    raise ConfigurationError([part for problem in problems for part in problem.split(_BETWEEN)])


def _problem(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"]).upper()
    message = problem["msg"].removeprefix("Value error, ")
    if not name:
        return message  # type: ignore[no-any-return]
    field = Settings.model_fields.get(str(problem["loc"][0]))
    secret = field is not None and ("Secret" in str(field.annotation) or not field.repr)
    shown = "" if secret else f" (given: {problem['input']!r})"
    return f"{name}: {message}{shown}"


def origins_of(settings: Settings) -> dict[str, str]:
    """Where each setting's value came from: environment, .env file, or default."""
    given = _given()
    return {name: given.get(name, ("", "default"))[1] for name in type(settings).model_fields}
