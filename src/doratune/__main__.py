"""`python -m doratune`."""

from doratune.cli.main import main

main()
