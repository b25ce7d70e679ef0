"""Whether an operator's tables and columns are there, and what they are made of."""

from collections.abc import Collection, Mapping, Sequence

from recommendation_service.doctor.findings import Finding, error, info, ok, warning

_WITHOUT = "no catalog can be built without it; the service goes on serving the last one, and has none at a first start"


def check_tables(
    missing_tables: Sequence[str],
    missing_columns: Mapping[str, Collection[str]],
    database: str,
    needed: int,
    denied: Sequence[str] = (),
) -> list[Finding]:
    """What is not there of the ``needed`` tables, as far as the user may see; ``denied``: those that it may not read,
    or not all of."""
    found = [
        error(
            f"table {table}",
            f"There is no table {database}.{table}, or this user may see nothing of it: {_WITHOUT}.",
            f"Check MYSQL_DB ({database}); docs/mapping.md says how to read another schema.",
        )
        for table in missing_tables
    ]
    found += [
        error(
            f"columns of {table}",
            f"{database}.{table} has no {_listed(sorted(columns))}: {_WITHOUT}.",
            "Another schema needs a mapping: docs/mapping.md says how.",
        )
        for table, columns in missing_columns.items()
        if columns
    ]
    unseen = [entry for entry in denied if " " not in entry]  # else of some columns only
    if unseen and not found:
        rest = needed - len(unseen)
        return [
            info(
                "tables",
                f"{rest} of {needed} tables are there with the columns that are read; of what this user may not "
                "read, the server does not tell whether it is there.",
            )
        ]
    return found or [ok("tables", f"All {needed} tables are there with the columns that are read.")]


def check_engines(engines: Mapping[str, str], needed: int, denied: Sequence[str] = ()) -> Finding:
    """Only InnoDB gives a build one moment of all tables, and indexes while others write."""
    others = sorted(table for table, engine in engines.items() if engine != "InnoDB")
    if any(" " not in entry for entry in denied) and not others:
        return info(
            "storage engine",
            f"The {len(engines)} of {needed} tables that this user may see something of are InnoDB.",
        )
    if not others:
        return ok("storage engine", "All tables are InnoDB: a build sees one moment of them.")
    return warning(
        "storage engine",
        f"{_listed(others)} {'is' if len(others) == 1 else 'are'} not InnoDB: a build does not see one moment "
        "of the tables, and making an index locks writers out.",
        "\n".join(f"ALTER TABLE {table} ENGINE=InnoDB;" for table in others),
    )


def check_character_sets(schema: str, connection: str, others: Mapping[str, str]) -> Finding:
    """``others``: `table.column` of each text column that is not utf8mb4, with its character set."""
    name = "character set"
    if connection != "utf8mb4":
        return warning(
            name,
            f"The service's connection speaks {connection}: emoji and rarer letters arrive as question marks.",
            "Add ?charset=utf8mb4 to DATABASE_URL, or use MYSQL_HOST, which does.",
        )
    if others:
        shown = _listed([f"{column} ({charset})" for column, charset in sorted(others.items())][:8])
        more = f" and {len(others) - 8} more" if len(others) > 8 else ""
        return warning(
            name,
            f"Not utf8mb4: {shown}{more}. Emoji cannot be stored there; what is stored is read as it is.",
            "\n".join(
                f"ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4;  -- rewrites the table: at a quiet hour"
                for table in sorted({column.split(".")[0] for column in others})
            ),
        )
    if schema != "utf8mb4":
        return warning(
            name,
            f"The tables and the connection are utf8mb4, but new tables of the database would be {schema}.",
            "ALTER DATABASE CHARACTER SET utf8mb4;",
        )
    return ok(name, "Database, tables and connection are utf8mb4.")


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else words[0]
