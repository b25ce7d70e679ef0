"""Where the demo's people live, spelled the way they spell it."""

import numpy as np

from recommendation_service.demo.draws import Integers, hashed_unit

_COUNTRY_SALT, _CITY_SALT = 11, 12

# country as stored, share of the users
COUNTRIES: list[tuple[str | None, float]] = [
    ("Colombia", 0.60),
    ("México", 0.25),
    ("Mexico", 0.07),
    ("Perú", 0.02),
    ("Ecuador", 0.02),
    (None, 0.03),
    ("", 0.01),
]

# (city as stored, the city's name in a sentence, share among the country's users)
Spelling = tuple[str | None, str, float]
_COLOMBIA: list[Spelling] = [
    ("Bogotá", "Bogotá", 18),
    ("Bogota", "Bogotá", 9),
    ("bogota", "Bogotá", 4),
    ("Bogotá D.C.", "Bogotá", 5),
    (" Bogotá ", "Bogotá", 1),
    ("Medellín", "Medellín", 12),
    ("Medellin", "Medellín", 7),
    ("Medellín ", "Medellín", 1),
    ("Cali", "Cali", 10),
    ("Barranquilla", "Barranquilla", 7),
    ("Cartagena", "Cartagena", 4),
    ("Bucaramanga", "Bucaramanga", 4),
    ("Pereira", "Pereira", 3),
    ("Manizales", "Manizales", 3),
    ("Pasto", "Pasto", 2),
    ("Quibdó", "Quibdó", 1),
    ("", "mi ciudad", 5),
    (None, "mi ciudad", 4),
]
_MEXICO: list[Spelling] = [
    ("CDMX", "Ciudad de México", 10),
    ("Ciudad de México", "Ciudad de México", 14),
    ("Distrito Federal", "Ciudad de México", 8),
    ("Nuevo León", "Monterrey", 6),
    ("Nuevo Leon", "Monterrey", 4),
    ("Monterrey", "Monterrey", 8),
    ("Guadalajara", "Guadalajara", 12),
    ("Puebla", "Puebla", 7),
    ("Querétaro", "Querétaro", 5),
    ("Mérida", "Mérida", 4),
    ("Tijuana", "Tijuana", 4),
    ("Oaxaca", "Oaxaca", 3),
    ("  ", "mi ciudad", 1),
    ("", "mi ciudad", 5),
    (None, "mi ciudad", 4),
]
_ELSEWHERE: list[Spelling] = [
    ("", "mi ciudad", 6),
    (None, "mi ciudad", 3),
    ("Lima", "Lima", 1),
    ("Quito", "Quito", 1),
]
_CITIES: dict[str | None, list[Spelling]] = {"Colombia": _COLOMBIA, "México": _MEXICO, "Mexico": _MEXICO}


def is_mexican(country: str | None) -> bool:
    return country in {"México", "Mexico"}


def countries_of(user_ids: Integers, seed: int) -> list[str | None]:
    shares = np.cumsum([share for _, share in COUNTRIES])
    drawn = np.searchsorted(shares, hashed_unit(user_ids, seed * 64 + _COUNTRY_SALT) * shares[-1], side="right")
    return [COUNTRIES[index][0] for index in drawn.tolist()]


def cities_of(user_ids: Integers, seed: int) -> list[Spelling]:
    """The city of each user, the same wherever it is asked for: nothing is stored."""
    units = hashed_unit(user_ids, seed * 64 + _CITY_SALT).tolist()
    running = {id(table): np.cumsum([share for *_, share in table]) for table in (_COLOMBIA, _MEXICO, _ELSEWHERE)}
    cities = []
    for country, unit in zip(countries_of(user_ids, seed), units, strict=True):
        table = _CITIES.get(country, _ELSEWHERE)
        shares = running[id(table)]
        cities.append(table[int(np.searchsorted(shares, unit * shares[-1], side="right"))])
    return cities
