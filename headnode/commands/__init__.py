"""The commands, one module a noun. Each reads its options, calls one function, shows the result."""
