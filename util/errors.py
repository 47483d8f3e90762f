"""Errors that a user can mend, told in one line; and how every script ends with one."""

import difflib
import os
import sys

# what torch's allocators and cuBLAS say when memory runs out
OUT_OF_MEMORY = (
    'out of memory', "can't allocate memory", 'Storage size calculation overflowed', 'ALLOC_FAILED')


class UserError(ValueError):
    """A mistake that the user can mend. Its text is one line: what is wrong and what to do."""


def fail(message):
    """Raise a UserError with this message, made into one printable line."""
    raise UserError(printable(' '.join(str(message).splitlines())))


def printable(text):
    """The text with its control characters escaped: those out of a user's file would steer the terminal."""
    safe = []
    for character in text:
        if character.isprintable() or character in '\n\t':
            safe.append(character)
        else:
            safe.append(character.encode('unicode_escape').decode())
    return ''.join(safe)


def nearest(name, names):
    """The one of `names` that looks most like a mistyped name, or 'none' if there are no names."""
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0)
    return matches[0] if matches else 'none'


def run_cli(main):
    """
    Run a script's main function. A UserError, or a lack of memory, ends the script with one line on stderr and
    exit status 2; any other exception is a fault of the program and keeps its traceback.
    """
    if hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(errors='backslashreplace')  # a terminal that is not UTF-8 gets \xe9 for é
    try:
        main()
    except UserError as error:
        end(error)
    except BrokenPipeError:  # who reads the output has had enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at the end
        raise SystemExit(1) from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        end(advice_on_memory(error))


def is_out_of_memory(error):
    """
    Whether an exception says that there is not enough memory: Python's, numpy's, or torch's on any device.
    """
    if isinstance(error, MemoryError):
        return True
    return any(words in str(error) for words in OUT_OF_MEMORY)


def advice_on_memory(error):
    """What to do when memory runs out, and the first line of what the allocator said."""
    cause = f'{type(error).__name__}: {error}'.split('\n')[0]
    return printable(f'not enough memory: raise --accumulation, which computes the same batch in smaller '
                     f'pieces, or --decode_pieces for long inputs, or lower --batch_size ({cause})')


def end(message):
    """Print the error line and leave with exit status 2."""
    print_error(message)
    raise SystemExit(2) from None


def print_error(message):
    """
    The error line, on stderr. It is written at once, its end too: where Python does not buffer (as
    PYTHONUNBUFFERED asks), print would write it in pieces, and the lines of two processes would mix.
    """
    sys.stderr.write(f'error: {message}\n')
    sys.stderr.flush()
