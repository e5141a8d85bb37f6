"""`python -m riskbatch` is the `riskbatch` command."""

import sys

from .cli import main

sys.exit(main())
