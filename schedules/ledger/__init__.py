"""The ledger: what ran, how it ended, and how each blade is. One database, SQLite or PostgreSQL.

::

    runs      a job's run: claimed, heartbeat, outcome
    steps     the steps of a run, each with its outcome: where a killed night goes on
    blades    a row a blade: what it has, when it was last heard of, its last error with its log
    reports   every pull that was reported

It holds nothing that blades need: without it, packages are served and pulled all the same. Times
are aware UTC. Whoever writes holds the database for milliseconds, never across a step.

`models` has the tables, `store` the connection and its errors, `pulls` and `runs` what is written
and asked, `ledger` puts them together.
"""
