"""`python -m recommendation_service` is `recs`."""

import sys

from recommendation_service.entry import main

sys.exit(main())
