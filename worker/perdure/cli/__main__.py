"""``python -m perdure.cli`` is ``perdure``.

What lives here: the call of `main`, and nothing else.
"""

from perdure.cli.app import main

if __name__ == "__main__":
    main()
