"""The pipeline named by `MDMW_PIPELINE`, for those that have no module of their own."""

import os

from mdmw.wsgi.pipelines import NAME_VARIABLE, load_or_exit

application = load_or_exit(os.environ.get(NAME_VARIABLE, "main"))
