"""What is going on, for whoever looks: one `Status`, shown in five ways.

::

    model       what a status is: plain facts, frozen
    gather      collects it from the state folder, each source by a module of `sources`
    verdict     what it comes to in a sentence, and what needs a look (pure)
    page        as HTML (templates/, assets/); timeline and rack work out the pictures (pure)
    terminal    as text; metrics for Prometheus; feed as Atom; openapi describes the JSON
    routes      the URLs that `headnode serve` answers

Invariants: everything shown comes from one `Status`, so that no two views disagree; nothing here
changes any state; all text in it was made plain by its types, and is escaped by whoever shows it.
"""
