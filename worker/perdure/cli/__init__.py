"""The command line, `perdure`: the top floor of the library.

Every command is thin: parse, one call of the client, present. `app` collects
the commands; what is shown is decided in pure modules (`steps`, `narration`,
`portrait`) that need no terminal and no database.
"""
