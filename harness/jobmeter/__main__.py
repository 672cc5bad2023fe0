"""``python -m jobmeter``."""

from jobmeter.cli import main

main()
