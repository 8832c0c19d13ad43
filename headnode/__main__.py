"""`python -m headnode`: the same as the program `headnode`."""

from headnode.quick import main

main()
