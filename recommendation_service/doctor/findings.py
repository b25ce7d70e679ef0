"""What the doctor says: findings, each with a severity, a sentence, and what to do."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """``advice`` is what to do about it; several lines where there is something to paste."""

    name: str
    severity: Severity
    sentence: str
    advice: str = ""


def ok(name: str, sentence: str) -> Finding:
    return Finding(name, Severity.OK, sentence)


def info(name: str, sentence: str, advice: str = "") -> Finding:
    return Finding(name, Severity.INFO, sentence, advice)


def warning(name: str, sentence: str, advice: str = "") -> Finding:
    return Finding(name, Severity.WARNING, sentence, advice)


def error(name: str, sentence: str, advice: str = "") -> Finding:
    return Finding(name, Severity.ERROR, sentence, advice)


def exit_status(findings: Iterable[Finding]) -> int:
    """0 where all is fine, 1 with warnings, 2 with errors."""
    severities = {finding.severity for finding in findings}
    if Severity.ERROR in severities:
        return 2
    return 1 if Severity.WARNING in severities else 0
