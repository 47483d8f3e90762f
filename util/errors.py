"""What a user can put right, said in one line; and how a script ends with it."""

import difflib
import sys


class UserError(ValueError):
    """What the user can put right: its text says what is wrong and what to do, in one line."""


def fail(message):
    raise UserError(printable(' '.join(str(message).splitlines())))


def printable(text):
    """Text out of a file, its control characters escaped: they would steer the terminal."""
    return ''.join(c if c.isprintable() or c in '\n\t' else c.encode('unicode_escape').decode() for c in text)


def run_cli(main):
    """Run a script's main function; a UserError ends it with one line on stderr and status 2, no traceback."""
    try:
        main()
    except UserError as error:
        print('error:', error, file=sys.stderr)
        raise SystemExit(2) from None


def nearest(name, names):
    """The one of `names` most like a mistyped name."""
    return (difflib.get_close_matches(name, names, n=1, cutoff=0) or ['none'])[0]
