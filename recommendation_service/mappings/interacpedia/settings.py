"""What can be set of the first operator alone, and what its database is called."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings

DATABASE = "interacpedia"

WindowDays = Annotated[int, Field(ge=1, le=36500, json_schema_extra={"unit": "days"})]


class OperatorSettings(BaseSettings):
    """Not used under MAPPING_FILE."""

    media_base_url: str = Field("https://media.interacpedia.com", description="address under which avatars are found")
    videos_window_days: WindowDays = Field(360, description="résumé videos created since are eligible")
    challenges_window_days: WindowDays = Field(90, description="challenges created or updated since are eligible")
