"""distcc: who helps the headnode to compile, and what came of it.

Before a build each helper is asked to compile (`probe`); those that fit are its crew (`crew`), and
the builder reaches them, and nothing else, through a relay (`relay`). What distcc itself writes
while it works is read back: who compiles what just now (`state`), and who compiled how much
(`account`)::

    <state>/build/<class>/logs/distcc/     DISTCC_DIR of the builder
        log                                what distcc did in the last build that had helpers
        state/ lock/                       its jobs, its slots and the helpers it avoids for a while
        probe/                             the probe, and the object that each helper made of it

What is set up on the helpers is rendered by `config.distccd`.
"""
