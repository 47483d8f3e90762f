"""
Settings of a script: its own defaults, then config files, then --key=value. The later ones win.

A script keeps its knobs as plain lines at its top, `lr = 1e-4  # peak learning rate` or
`max_len: int | None = None  # bytes kept`, and calls configure(globals()). Names and types are checked against
these defaults, so a typo stops the run and never passes in silence.

A config file is Python code. All knobs are variables in it, and those given on the command line have these
values already. So it may say `dropout = 0.1 if task == 'esol' else 0.0`.

Knobs that several scripts share are declared once, in one of them. The others name it in one line,
`SHARED_KNOBS = ('data.py', 'pretrain.py: model')` (all of a file, or what stands under a line `# ---- model` in
it), and read these knobs from the dict that configure returns.
"""

import ast
import inspect
import runpy
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from util.errors import fail, nearest

ROOT = Path(__file__).resolve().parent
TYPES = {'bool': bool, 'int': int, 'float': float, 'str': str}
LARGEST_INT = 2 ** 63 - 1
RULE = '# ' + 40 * '-'  # how a line of dashes begins
NO_VALUE = object()  # the value of a `--lr` with nothing after it


def configure(script_globals: dict, argv: list[str] | None = None) -> dict:
    """
    Set the knobs of the script whose globals() are given, and return {name: final value}.

    argv: the command line, sys.argv[1:] unless given. To read the knobs of a script that is not running, pass
    script_globals = {'__file__': its path}. Mistakes raise UserError; --help prints the knobs and leaves.
    """
    knobs, help_text = find_knobs(script_globals['__file__'])
    argv = sys.argv[1:] if argv is None else argv
    if '-h' in argv or '--help' in argv:
        print(help_text, end='')
        raise SystemExit(0)

    files, options = split_command_line(argv, knobs)
    given = {}
    for name, text in options:
        given[name] = checked_value(name, text, knobs, 'command line')

    config = {name: knob.default for name, knob in knobs.items()}
    for file in files:
        for name, value in run_file(file, {**config, **given}).items():
            config[name] = checked_value(name, value, knobs, file)
    config.update(given)
    script_globals.update(config)
    return config


def defaults_of(script) -> dict:
    """{name: default} of a script's knobs, shared ones included."""
    knobs, _ = find_knobs(script)
    return {name: knob.default for name, knob in knobs.items()}


# -----------------------------------------------------------------------------
# the knobs of a script, read off its source

@dataclass(frozen=True)
class Knob:
    default: object
    types: set  # that its value, or each item of a tuple, may have

    @property
    def is_tuple(self):
        return isinstance(self.default, tuple)

    @property
    def is_flag(self):
        """True or False: a bare --name on the command line means True."""
        return not self.is_tuple and self.types <= {bool, type(None)}


def find_knobs(script) -> tuple[dict, str]:
    """-> ({name: Knob}, the text of --help), read off a script that is not run."""
    source = Path(script).read_text(encoding='utf-8')
    tree = ast.parse(source)
    knobs = {}
    help_text = (ast.get_docstring(tree) or '').strip() + '\n'
    for place in shared_places(tree):
        file, _, heading = place.partition(': ')
        shared, shared_help = read_knobs((ROOT / file).read_text(encoding='utf-8'), heading)
        knobs.update(shared)
        help_text += shared_help
    own, own_help = read_knobs(source)
    for name in own:
        if name in knobs:
            fail(f'{script} declares {name}, which {" or ".join(shared_places(tree))} declares too')
    knobs.update(own)
    return knobs, help_text + own_help


def shared_places(tree):
    """The places that a script names in its line SHARED_KNOBS = (..)."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', None) == 'SHARED_KNOBS':
            return ast.literal_eval(node.value)
    return ()


def read_knobs(source, only_heading=''):
    """
    The knobs that the source itself declares, and their lines of help. A line `# ---- heading` right above a
    knob is a heading, for it and those after it. only_heading: take the knobs whose heading starts with it.

    Between the first two rules (lines of dashes) a lower-case name with any other value is a mistake.
    """
    lines = source.split('\n')
    rules = [i for i, line in enumerate(lines, 1) if line.startswith(RULE)]
    knobs = {}
    help_text = ''
    heading = ''
    for node in ast.parse(source).body:
        name, annotation = declared_name(node)
        if name is None:
            continue
        types = None
        if is_literal(node.value):
            default = ast.literal_eval(node.value)
            types = types_of(default, annotation)
        if types is None and len(rules) > 1 and rules[0] < node.lineno < rules[1]:
            fail(f'{lines[node.lineno - 1]!r} is no knob: its value must be a number, a text, True, False, '
                 'None or a tuple of these, written out. A constant has a name like NAME.')
        if types is None:
            continue
        line_above = lines[node.lineno - 2]
        is_first = line_above.startswith('# ---- ')
        if is_first:
            heading = line_above.strip('#- ')
        if not heading.startswith(only_heading):
            continue
        if name in knobs:
            fail(f'there are two knobs {name}')
        knobs[name] = Knob(default, types)
        if is_first:
            help_text += f'\n{heading}\n'
        after_value = lines[node.end_lineno - 1].encode()[node.end_col_offset:].decode()  # columns count bytes
        comment = after_value.partition('#')[2]
        help_text += f'  --{name}={default!r}'.ljust(40) + comment + '\n'
    return knobs, help_text


def declared_name(node):
    """Name and annotation of a statement like `lr = 1e-4` or `n: int | None = None`, else (None, None)."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        annotation = None
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        target = node.target
        annotation = node.annotation
    else:
        return None, None
    if not isinstance(target, ast.Name) or not target.id.islower() or target.id.startswith('_'):
        return None, None  # constants are upper case, helpers start with _
    return target.id, annotation


def is_literal(value):
    """Whether an expression is -1, 'a' or (1, 2), with nothing to compute."""
    plain = (ast.Constant, ast.Tuple, ast.UnaryOp, ast.USub, ast.Load)
    return all(isinstance(part, plain) for part in ast.walk(value))


def types_of(default, annotation):
    """The types that a knob, or each item of a tuple, may have. None: it is no knob."""
    if default == () and annotation is None:
        return {str}  # a folder of runs may be called 2024
    items = default if isinstance(default, tuple) else [default]
    types = {type(item) for item in items}
    if annotation is not None:  # `int | None`
        types |= {TYPES[annotation.left.id], type(None)}
    every_type = {*TYPES.values(), type(None)}
    if not types <= every_type:
        return None
    if not types - {type(None)}:  # a default of None, without an annotation, says nothing
        return every_type
    return types


# -----------------------------------------------------------------------------
# the command line and config files

def split_command_line(argv, knobs):
    """-> (config files in their order, [(name, text of its value or NO_VALUE)])"""
    files = []
    options = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith('--'):
            files.append(word)
            continue
        name, equals, text = word[2:].partition('=')
        if not equals:
            next_word = rest[0] if rest else ''
            is_flag = name in knobs and knobs[name].is_flag
            if is_flag and next_word.lower() not in ('true', 'false'):
                text = 'True'
            elif rest and not next_word.startswith('--'):
                text = rest.pop(0)
            else:
                text = NO_VALUE
        options.append((name, text))
    return files, options


def run_file(file, knobs_now):
    """Run a config file, which sees the knobs as they are now. -> {name: value} that it set"""
    path = next((path.resolve() for path in (Path(file), ROOT / file) if path.is_file()), None)
    if path is None or path.suffix != '.py':
        fail(f'command line: {file!r} is no config file (*.py) in {Path.cwd()} or {ROOT}, nor a --key=value')
    sys.path += [str(path.parent), str(ROOT)]  # at the end, so that config/random.py hides no library
    try:
        after = runpy.run_path(str(path), init_globals=knobs_now)
    except Exception as error:
        fail(f'{file}, line {line_of(error, path)}: {type(error).__name__}: {error}')
    settings = {}
    for name, value in after.items():
        if name in knobs_now:
            if value is not knobs_now[name]:
                settings[name] = value  # even a function: it is refused later
        elif not name.startswith('_') and not callable(value) and not inspect.ismodule(value):
            settings[name] = value  # no knob has this name: refused later
    return settings


def line_of(error, path):
    """The line of the config file where the error came up."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if lines:
        return lines[-1]
    return getattr(error, 'lineno', 1)  # the file's own SyntaxError has no frame in it


# -----------------------------------------------------------------------------
# values

def checked_value(name, value, knobs, source):
    """The value in the type of its knob. source: 'command line' (value is text) or a config file's name."""
    if name not in knobs:
        fail(f'{source}: unknown name {name!r}, the nearest is {nearest(name, knobs)!r}')
    knob = knobs[name]
    if value is NO_VALUE:
        fail(f'{source}: {name}: wants a value, got no value')
    try:
        parsed = parse(value, knob) if source == 'command line' else value
        fitted = fit(parsed, knob)
    except (ValueError, OverflowError) as error:
        fail(f'{source}: {name}: {error}, got {value!r}')
    items = fitted if isinstance(fitted, tuple) else (fitted,)
    may_be_empty = knob.default == '' or name.endswith('_column')  # a column of a table may have no name
    if '' in items and not may_be_empty:  # such as --val_file=$VAL where VAL is not set
        fail(f'{source}: {name}: wants a value, got an empty text')
    return fitted


def parse(text, knob):
    """The value of a text of the command line. What is no Python literal stays text, for fit() to judge."""
    raw = text.split(',') if knob.is_tuple else text
    if only_text(text, knob):
        return raw
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    if str in knob.types:
        return raw
    return {'true': True, 'false': False, 'inf': float('inf')}.get(text, text)


def only_text(text, knob):
    """Whether a text is taken as it stands: a data set may be called 1e3."""
    if knob.is_tuple and text.startswith('('):
        return False  # ('a', 'b') in brackets is read as Python
    if knob.types == {str, type(None)}:
        return text != 'None'
    return knob.types == {str}


def fit(value, knob):
    """`value` in the type of the knob's default. Raises ValueError, or OverflowError past the largest float."""
    if isinstance(value, (tuple, list)):
        if knob.default is None and not value:
            raise ValueError('wants something')
        if knob.is_tuple or knob.default is None:
            return tuple(fit_item(item, knob.types) for item in value)
    elif knob.is_tuple:
        return (fit_item(value, knob.types),)
    return fit_item(value, knob.types)


def fit_item(value, types):
    """A single value in one of the types: 1 becomes 1.0 for a float, and 1e3 becomes 1000 for an int."""
    if type(value) is int and abs(value) > LARGEST_INT:
        raise ValueError('wants less than 2^63')
    if type(value) is int and int not in types and float in types:
        value = float(value)
    elif type(value) is float and float not in types and int in types and value.is_integer():
        value = int(value)
    if type(value) not in types or value != value:  # nan differs from itself
        raise ValueError('wants ' + ' or '.join(sorted(kind.__name__ for kind in types)))
    return value
