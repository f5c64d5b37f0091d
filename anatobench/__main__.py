"""`python -m anatobench`."""

import sys

from anatobench.cli.main import main

sys.exit(main())
