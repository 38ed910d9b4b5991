"""`python -m kdlib`."""

from kdlib.cli import main

raise SystemExit(main())
