"""``gunicorn -c gunicorn.conf.py api.server:app`` or ``uvicorn api.server:app --host 0.0.0.0 --port 5005``."""

import sys

from recommendation_service.bootstrap import create_app
from recommendation_service.core.errors import ConfigurationError
from recommendation_service.server.protocol import serve_behind_door

serve_behind_door()
try:
    app = create_app()
except ConfigurationError as error:
    sys.exit("The service cannot start:\n" + "\n".join(f"- {problem}" for problem in error.problems))
