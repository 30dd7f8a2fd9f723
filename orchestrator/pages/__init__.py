"""Pages for browsers: to log in, and to answer logins of command lines.

    GET  /                      who is logged in here
    GET  /login                 name and password, or the identity provider
    GET  /login/device          the code that a command line shows
    GET  /login/oidc            to the identity provider, and back by /login/oidc/callback

A browser holds its session in a cookie that no script can read and that other sites' requests do not carry; the API
takes tokens alone, so nothing that a browser sends by itself does anything there. What a form sends is believed with a
token that belongs to the session, and from this site's own pages alone (``Origin``).
"""
