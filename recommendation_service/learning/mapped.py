"""What is learned from under a mapping: its events by their names and weights, and the rows that its queries give."""

from typing import Any

from recommendation_service.core.config import Settings
from recommendation_service.learning.format import EventReward, LearningFile, load_learning
from recommendation_service.model.words import ALWAYS
from recommendation_service.sources.mapping.mapping import Mapping, load_mapping
from recommendation_service.sources.mapping.rows import events_with_rows
from recommendation_service.sources.mapping.words import words_of


def learning_of(settings: Settings) -> LearningFile:
    """LEARNING_FILE, with what a mapping says where there is one. Raises ConfigurationError."""
    file = load_learning(settings.learning_file)
    return file if settings.mapping_file is None else under(load_mapping(settings.mapping_file), file)


def under(mapping: Mapping, file: LearningFile) -> LearningFile:
    """The file with the mapping's events in the place of its own. ``rows``: an event's own query stands for a table."""
    rules = _rules(mapping, file)
    told = {name: {name: name} for name in events_with_rows(mapping) if name in rules}
    update: dict[str, Any] = {"events": rules, "rows": told}
    return file.model_copy(update=update)


def _rules(mapping: Mapping, file: LearningFile) -> dict[str, EventReward]:
    """An event is worth its weight beside the heaviest; where a value multiplies that, so much of it, and no more than
    the heaviest. A mark is worth that from -1, of the worst, to 1. What only shows, skips or hides, and ratings whose
    marks the mapping does not tell, are worth what the file says."""
    hours = file.rules["like"].hours if "like" in file.rules else 24.0
    events = mapping.content.events
    heaviest = max((event.weight for event in events.values()), default=0.0)
    rules: dict[str, EventReward] = {}
    for name, own in words_of(mapping).events.items():
        event = events.get(name)
        if event is not None and event.marks is not None and event.weight > 0 and own.means not in ALWAYS:
            middle, best = sum(event.marks) / 2, event.marks[1]
            reward = event.weight / heaviest
            rules[name] = EventReward(reward=reward, hours=hours, by="value", neutral=middle, full=best)
        elif own.means in (*ALWAYS, "rating") or event is None:
            if (rule := file.rules.get(own.means)) is not None:
                rules[name] = rule
        elif event.weight > 0 and event.value is not None:
            rules[name] = EventReward(reward=1.0, hours=hours, by="value", full=heaviest / event.weight)
        elif event.weight > 0:
            rules[name] = EventReward(reward=event.weight / heaviest, hours=hours)
    return rules
