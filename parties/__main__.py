"""`python -m parties` is `tapveil`."""

from parties.cli import main

main()
