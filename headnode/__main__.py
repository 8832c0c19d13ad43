"""`python -m headnode`: the same as the program `headnode`."""

from headnode.cli import main

main()
