"""Settings of a script: its own defaults, then config files, then --key=value, the later the stronger.

A script keeps its knobs as plain lines, `lr = 1e-4  # peak learning rate` or
`max_len: int | None = None  # cut`, and calls configure(globals()). Names and types are checked against these
defaults, so a typo stops the run and never passes in silence. A config file is code; it sees all knobs,
those of the command line as they will be: `dropout = 0.1 if task == 'esol' else 0.0`.

And two things that every room needs: an error for users, and files that are written whole or not at all.
"""
import ast, builtins, difflib, inspect, os, runpy, sys, traceback
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent
SCALARS = {bool, int, float, str, type(None)}
LITERAL = (ast.Constant, ast.Tuple, ast.UnaryOp, ast.USub, ast.Load)  # the nodes of `-1` or `('a', None)`

class UserError(ValueError):
    """What the user can put right: its text says what is wrong and what to do, in one line."""

def fail(message):
    raise UserError(printable(' '.join(str(message).splitlines())))

def printable(text):
    """Text out of a file, its control characters escaped: they would steer the terminal."""
    return ''.join(c if c.isprintable() or c in '\n\t' else c.encode('unicode_escape').decode() for c in text)

@contextmanager
def whole(path, mode='wb'):
    """A file to write, which takes the place of `path` when all of it is on the disk, or never."""
    path, new = Path(path), Path(f'{path}.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(new, mode, encoding=None if 'b' in mode else 'utf-8') as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        new.replace(path)
        sync(path.parent)
    except OSError as error:
        fail(f'cannot write {path}: {error.strerror or error}')
    finally:
        if new.is_file():
            new.unlink()

def sync(path):
    """Has the disk take what was written to a file, or the names in a folder, before anything after it."""
    if os.name == 'posix':  # elsewhere a folder cannot be opened
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

def start(main):
    """Run a script's main function; a UserError ends it with one line on stderr and status 2, no traceback."""
    try:
        main()
    except UserError as error:
        print('error:', error, file=sys.stderr)
        raise SystemExit(2) from None

def nearest(name, names):
    """The one of `names` most like a mistyped name."""
    return (difflib.get_close_matches(name, names, n=1, cutoff=0) or ['none'])[0]

def find_knobs(script):
    """({name: (default, types of it or its items)}, text of --help), read off a script that is not run."""
    source = Path(script).read_text(encoding='utf-8')
    tree, lines, knobs = ast.parse(source), source.split('\n'), {}
    text = (ast.get_docstring(tree) or '').strip() + '\n'
    for node in tree.body:
        match node:
            case (ast.Assign(targets=[ast.Name(id=name)])
                  | ast.AnnAssign(target=ast.Name(id=name), value=ast.AST())) \
                    if name.islower() and name[0] != '_' \
                    and all(isinstance(part, LITERAL) for part in ast.walk(node.value)):  # constants are upper
                value, above = ast.literal_eval(node.value), lines[node.lineno - 2]
                kinds = {type(item) for item in (value if isinstance(value, tuple) else [value])}
                if isinstance(node, ast.AnnAssign):  # `max_len: int | None = None` says what else it may be
                    kinds |= {type(None), getattr(builtins, node.annotation.left.id)}
                if kinds <= SCALARS:
                    knobs[name] = value, kinds if kinds - {type(None)} else SCALARS  # None or () takes any
                    comment = lines[node.end_lineno - 1].encode()[node.end_col_offset:].decode()  # in bytes
                    text += '\n' + above.strip('#-= ') + '\n' if above.startswith('#') else ''
                    text += f'  --{name}={value!r}'.ljust(40) + comment.partition('#')[2] + '\n'
    return knobs, text

def defaults_of(script):
    """{name: default} of a script's knobs."""
    return {name: default for name, (default, _) in find_knobs(script)[0].items()}

def run_file(name, knobs, now):
    """The settings that a config file leaves behind, [(file, name, value)]; it sees the knobs `now`."""
    path = next((path.resolve() for path in (Path(name), ROOT / name) if path.is_file()), None)
    if path is None or not name.endswith('.py'):
        fail(f'command line: {name!r} is no config file (*.py) in {Path.cwd()} or {ROOT}, nor a --key=value')
    sys.path += [str(path.parent), str(ROOT)]  # at the end, so that config/random.py hides no library
    try:
        found = runpy.run_path(str(path), init_globals=now).items()
    except Exception as error:
        lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == str(path)]
        line = lines[-1] if lines else getattr(error, 'lineno', 1)  # its own SyntaxError has no frame in it
        fail(f'{name}, line {line}: {type(error).__name__}: {error}')
    found = [(name, key, value) for key, value in found if key not in now or value is not now[key]]
    return [(name, key, value) for name, key, value in found if key in knobs  # even a function: it is wrong
            or not (key.startswith('_') or callable(value) or inspect.ismodule(value))]

def parse(text, default, kinds):
    """The value that `text` spells on the command line; what spells none stays text, for fit() to judge."""
    raw = text.split(',') if isinstance(default, tuple) else text
    try:  # a str is taken raw, for a data set may be called 1e3; only ('a', 'b') in brackets is read
        plain = kinds == {str} or kinds == {str, type(None)} and text != 'None'
        return raw if plain and (raw == text or text[:1] != '(') else ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return raw if str in kinds else {'true': True, 'false': False, 'inf': 1e999}.get(text, text)

def fit(value, default, kinds):
    """`value` in the type of the knob's default, or a ValueError; an OverflowError past the largest float."""
    several = isinstance(value, (tuple, list))
    if default is None and value in ((), []) or type(value) is int and abs(value) >= 2 ** 63:
        raise ValueError('wants something' if several else 'wants less than 2^63')
    if isinstance(default, tuple) or default is None and several:
        return tuple(fit(item, 0, kinds) for item in (value if several else [value]))
    if type(value) not in kinds and type(value) in (int, float):  # 1 fills a float, a whole 1e3 an int
        value = float(value) if type(value) is int else int(value) if value.is_integer() else value
    if type(value) not in kinds or value != value:  # nan differs from itself
        raise ValueError('wants ' + ' or '.join(sorted(kind.__name__ for kind in kinds)))
    return value

def configure(space, argv=None):
    """
    Set the knobs of the script whose globals() are `space`, and return {name: final value}. With a space of
    {'__file__': script} alone, the knobs of a script that is not run.
    """
    (knobs, usage), rest = find_knobs(space['__file__']), list(sys.argv[1:] if argv is None else argv)

    def set_knob(settings, source, name, value):
        if name not in knobs:
            fail(f'{source}: unknown name {name!r}, the nearest is {nearest(name, knobs)!r}')
        try:
            spelled = source == 'command line' and value is not ...
            settings[name] = fit(parse(value, *knobs[name]) if spelled else value, *knobs[name])
        except (ValueError, OverflowError) as error:
            fail(f'{source}: {name}: {error}, got {"no value" if value is ... else repr(value)}')
    if '-h' in rest or '--help' in rest:
        print(usage, end='')
        raise SystemExit(0)
    files, given, final = [], {}, {name: value for name, (value, _) in knobs.items()}
    while rest:
        name, equals, value = rest.pop(0).partition('=')
        if name.startswith('--'):
            if not equals:  # a bare --flag is True; another option takes the next argument, or gets `...`
                default, kinds = knobs.get(name[2:], (None, set()))
                flag = kinds <= {bool, type(None)} and not isinstance(default, tuple)
                flag = flag and str(*rest[:1]).lower() not in ('true', 'false')
                value = 'True' if flag else rest.pop(0) if rest and not rest[0].startswith('--') else ...
            set_knob(given, 'command line', name[2:], value)
        else:
            files.append(name + equals + value)
    for name in files:
        for setting in run_file(name, knobs, {**final, **given}):
            set_knob(final, *setting)
    final.update(given)
    space.update(final)
    return final
