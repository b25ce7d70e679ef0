"""JSON lists of skills, knowledges, tools and objectives, and sentences about them, in bulk."""

from collections.abc import Callable, Sequence

import numpy as np

from recommendation_service.demo.draws import Integers, Reals, draw_subsets
from recommendation_service.demo.vocabulary import Field, json_word, vocabulary


class FieldWords:
    """One kind of word of every field, encoded once; the first words of a field are its most common ones."""

    def __init__(self, words_of: Callable[[Field], Sequence[str]]) -> None:
        lists = [words_of(field) for field in vocabulary().fields]
        self.plain: list[Sequence[str]] = lists
        self._encoded = [[json_word(word) for word in words] for words in lists]
        most = max(len(words) for words in lists)
        # (fields, words): Zipf's 1/√rank within a field, and never a word that a field does not have.
        self._log_weights: Reals = np.full((len(lists), most), -np.inf)
        for index, words in enumerate(lists):
            self._log_weights[index, : len(words)] = -0.5 * np.log(np.arange(1, len(words) + 1))

    def draw(self, rng: np.random.Generator, fields: Integers, k: int) -> Integers:
        """(n, k) words, most likely the common ones. What -1 in `fields` draws is for the caller to skip."""
        return draw_subsets(rng, self._log_weights[np.maximum(fields, 0)], len(fields), k)

    def json_lists(
        self,
        rng: np.random.Generator,
        fields: Integers,
        second: Integers,
        *,
        least: int,
        most: int,
        empty_share: float = 0.0,
    ) -> list[str]:
        """A JSON list a row: `least` to `most` words of its field, one or two more of its second field."""
        n = len(fields)
        first_words = self.draw(rng, fields, most).tolist()
        second_words = self.draw(rng, second, 2).tolist()
        first_counts = rng.integers(least, most + 1, n)
        second_counts = np.where(second >= 0, rng.integers(1, 3, n), 0)
        empty = rng.random(n) < empty_share
        first_counts[empty] = second_counts[empty] = 0
        encoded = self._encoded
        return [
            _json_list([encoded[f][w] for w in words[:k]], [encoded[s][w] for w in more[:j]])
            for f, words, k, s, more, j in zip(
                fields.tolist(),
                first_words,
                first_counts.tolist(),
                second.tolist(),
                second_words,
                second_counts.tolist(),
                strict=True,
            )
        ]


class PlainWords:
    """Words that belong to no field: languages, hobbies."""

    def __init__(self, words: Sequence[str], slope: float) -> None:
        self._encoded = [json_word(word) for word in words]
        self._log_weights: Reals = -slope * np.log(np.arange(1, len(words) + 1))

    def json_lists(self, rng: np.random.Generator, n: int, *, least: int, most: int) -> list[str]:
        drawn = draw_subsets(rng, self._log_weights, n, most).tolist()
        counts = rng.integers(least, most + 1, n).tolist()
        encoded = self._encoded
        return [_json_list([encoded[w] for w in words[:k]], []) for words, k in zip(drawn, counts, strict=True)]


def _json_list(words: list[str], more: list[str]) -> str:
    # A tool or objective can belong to both fields: once is enough.
    return "[" + ", ".join(dict.fromkeys(words + more)) + "]"


class Words:
    """All the word lists of the demo, built once a load."""

    def __init__(self) -> None:
        self.skills = FieldWords(lambda field: field.skills)
        self.knowledges = FieldWords(lambda field: field.knowledges)
        self.tools = FieldWords(lambda field: field.tools)
        self.objectives = FieldWords(lambda field: field.objectives)
        self.languages = PlainWords(vocabulary().languages, slope=2.5)
        self.hobbies = PlainWords(vocabulary().hobbies, slope=0.3)

    def descriptions(self, rng: np.random.Generator, fields: Integers, cities: list[str]) -> list[str]:
        """One or two sentences of the field, about the person's own city."""
        n = len(fields)
        words, closings = vocabulary(), vocabulary().closings
        skills = self.skills.draw(rng, fields, 1)[:, 0].tolist()
        knowledges = self.knowledges.draw(rng, fields, 1)[:, 0].tolist()
        tools = self.tools.draw(rng, fields, 1)[:, 0].tolist()
        sentences = rng.integers(0, 1_000_000, n).tolist()
        endings = rng.integers(0, 2 * len(closings), n).tolist()
        texts = []
        for f, city, s, k, t, sentence, ending in zip(
            fields.tolist(), cities, skills, knowledges, tools, sentences, endings, strict=True
        ):
            field = words.fields[f]
            text = field.sentences[sentence % len(field.sentences)]
            if ending < len(closings):
                text = f"{text} {closings[ending]}"
            texts.append(
                text.format(skill=field.skills[s], knowledge=field.knowledges[k], tool=field.tools[t], city=city)
            )
        return texts
