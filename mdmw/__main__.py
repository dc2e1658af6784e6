"""`python -m mdmw` is the command `mdmw`."""

import sys

from mdmw.cli.main import main

sys.exit(main())
