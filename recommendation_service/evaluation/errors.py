"""What an evaluation cannot go on with."""

from collections.abc import Sequence


class EvaluationError(Exception):
    """``problems`` names all of them, each in a sentence that says what to do."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)
