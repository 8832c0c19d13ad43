"""A status as HTML: pictures worked out (`rack`, `timeline`), and put on the page (`render`).

It reads well without JavaScript, takes nothing from elsewhere, and has no inline style or script,
so that its Content-Security-Policy forbids all of that.
"""
