"""`python -m vadd` is `vadd`."""

import sys

from vadd.cli import main

sys.exit(main())
