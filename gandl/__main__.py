"""``python -m gandl``, the command line."""

import sys

from gandl.cli import main

sys.exit(main())
