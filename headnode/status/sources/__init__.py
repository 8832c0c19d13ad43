"""Where a status comes from: a module for each keeper of records. Each only reads."""
