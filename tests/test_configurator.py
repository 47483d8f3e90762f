"""The rules of configurator.py, most of them on a small script that is written into tmp_path."""
import math
import os
import re
import string
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import configurator  # noqa: E402
from configurator import configure, defaults_of, read_knobs  # noqa: E402
from util.errors import UserError, fail, nearest, run_cli  # noqa: E402
from util.files import atomic_write  # noqa: E402

SCRIPT = '''"""Train a toy.

$ python toy.py config/small.py --lr=1e-3
"""
import math
from math import pi  # imported: no knob
lr = 1e-4  # peak learning rate
steps = 100  # optimiser steps

# ---- data ----
dataset = 'toy#1'  # the é data set
note = 'é#é'  # free text
max_len = None  # bytes kept; None = all
compile = False  # fuse the model # and more

# ---- which runs ----
seeds = (0, 1)  # one run each
masks = ('random', 'guided')  # one run each
rates = (0.5, 1.5)
flags = (True, False)
empty = ()
gaps = (None, 512)
low = -1
_hidden = 3
doubled = 2 * 3
names = ['no', 'knob']
a = b = 5
def helper(): pass
'''
KNOBS = ['lr', 'steps', 'dataset', 'note', 'max_len', 'compile', 'seeds', 'masks', 'rates', 'flags', 'empty',
         'gaps', 'low']


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """toy(*argv, **{file stem: text}): runs configure on the script in tmp_path, the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', sys.path[:])
    script = tmp_path / 'toy.py'
    script.write_text(SCRIPT, encoding='utf-8')

    def run(*argv, **files):
        for stem, text in files.items():
            (tmp_path / f'{stem}.py').write_text(text, encoding='utf-8')
        space = {'__file__': str(script)}
        exec(compile(SCRIPT, str(script), 'exec'), space)
        run.space = space
        return configure(space, argv=list(argv))
    return run


@pytest.fixture
def refused(toy, capsys):
    """refused(*argv, **files): the one line on stderr of a run that must end with status 2."""
    def run(*argv, **files):
        with pytest.raises(SystemExit) as stop:
            run_cli(lambda: toy(*argv, **files))
        out, err = capsys.readouterr()
        assert stop.value.code == 2 and out == ''
        assert err.startswith('error: ') and err.count('\n') == 1 and err.endswith('\n')
        assert toy.space['lr'] == 1e-4  # nothing is written back
        return err
    return run


def same(value, wanted):
    """Equal, and of equal types: True is not 1, nor 1 1.0."""
    if isinstance(wanted, tuple):
        return type(value) is tuple and len(value) == len(wanted) and all(map(same, value, wanted))
    return type(value) is type(wanted) and value == wanted


# collecting and writing back

def test_knobs_are_the_plain_literals_in_definition_order(toy):
    config = toy()
    assert list(config) == KNOBS
    assert all(same(config[name], toy.space[name]) for name in KNOBS)


def test_values_go_back_into_the_globals(toy):
    config = toy('small.py', '--lr=1', '--steps', '7', small='dataset = "b"')
    assert (config['lr'], config['steps'], config['dataset']) == (1.0, 7, 'b')
    assert all(same(toy.space[name], config[name]) for name in KNOBS)


def test_argv_defaults_to_the_command_line(toy, monkeypatch):
    toy()
    monkeypatch.setattr(sys, 'argv', ['toy.py', '--steps=3'])
    assert configure(toy.space)['steps'] == 3


# types

@pytest.mark.parametrize('argument, wanted', [
    ('--lr=3', 3.0), ('--lr=3e-4', 3e-4), ('--lr=-1', -1.0), ('--lr=inf', math.inf), ('--lr=1e999', math.inf),
    ('--steps=1e3', 1000), ('--steps=1_000', 1000), ('--steps=-2', -2), ('--low=5', 5),
    ('--dataset=1e3', '1e3'), ('--dataset=None', 'None'), ('--dataset=a=b', 'a=b'),
    ('--dataset=(a)', '(a)'), ("--dataset='q'", "'q'"), ('--dataset=--x', '--x'), ('--dataset=a,b', 'a,b'),
    ('--compile=True', True), ('--compile=true', True), ('--compile=False', False),
    ('--compile=false', False),
    ('--max_len=512', 512), ('--max_len=0.5', 0.5), ('--max_len=None', None), ('--max_len=True', True),
    ('--max_len=some text', 'some text'), ('--max_len=1,2', (1, 2)), ("--max_len='7'", '7'),
    ('--seeds=0,1,2', (0, 1, 2)), ('--seeds=7', (7,)), ('--seeds=(0, 1)', (0, 1)), ('--seeds=[3, 4]', (3, 4)),
    ('--seeds=1e2,3', (100, 3)), ('--seeds=()', ()), ('--seeds=-1,-2', (-1, -2)), ('--seeds=4,', (4,)),
    ('--masks=random', ('random',)), ('--masks=1e3,None', ('1e3', 'None')), ('--masks=a, b', ('a', ' b')),
    ("--masks=('a', 'b')", ('a', 'b')), ('--masks=(a),(b)', ('(a)', '(b)')),
    ('--rates=1,2.5', (1.0, 2.5)), ('--flags=False', (False,)), ('--empty=1,two', ('1', 'two')),
    ('--empty=1,2.0', ('1', '2.0')), ('--gaps=None,3', (None, 3)),
])
def test_command_line_values(toy, argument, wanted):
    name, _, text = argument[2:].partition('=')
    assert same(toy(argument)[name], wanted)
    if not text.startswith('--'):
        assert same(toy(f'--{name}', text)[name], wanted)  # --key value


@pytest.mark.parametrize('line, wanted', [
    ('lr = 3', 3.0), ('steps = 1e3', 1000), ('compile = True', True), ('dataset = "1e3"', '1e3'),
    ('max_len = "a"', 'a'), ('max_len = None', None), ('max_len = [1, 2]', (1, 2)),
    ('seeds = 0', (0,)), ('seeds = [0, 1]', (0, 1)), ('seeds = tuple(range(3))', (0, 1, 2)),
    ('seeds = (2.0,)', (2,)), ('masks = "random"', ('random',)), ('masks = "a,b"', ('a,b',)),
    ('rates = [1, 2]', (1.0, 2.0)), ('empty = "x"', ('x',)), ('gaps = None', (None,)),
])
def test_config_file_values(toy, line, wanted):
    assert same(toy('c.py', c=line)[line.split()[0]], wanted)


@pytest.mark.parametrize('argument', [
    '--lr=abc', '--lr=True', '--lr=None', '--lr=nan', '--lr=0.1,0.2', '--lr=', '--lr=0x' + 'f' * 300,
    '--steps=1.5', '--steps=True', '--steps=inf', '--steps=None', '--steps=007',
    '--compile=1', '--compile=yes', '--compile=None', '--compile=0.0',
    '--max_len={}', '--max_len=1j', '--max_len=1,(2,)', "--max_len=b'x'",
    '--seeds=0,x', '--seeds=0.5', '--seeds=True', '--seeds=None', '--seeds=(0, (1,))',
    '--masks=(1, 2)', '--rates=1,nan', '--flags=1,0', '--gaps=x',
    '--dataset=', '--masks=', '--masks=random,', '--max_len=',  # a variable of the shell that is not set
])
def test_wrong_types_on_the_command_line(refused, argument):
    err = refused(argument)
    assert 'command line' in err and argument[2:].split('=')[0] in err


@pytest.mark.parametrize('line', [
    'lr = "1e-4"', 'lr = True', 'lr = None', 'lr = float("nan")', 'lr = float', 'lr = 10 ** 400',
    'steps = 1.5',
    'steps = True', 'steps = "3"', 'steps = [3]', 'compile = 1', 'compile = "True"', 'dataset = 3',
    'dataset = None', 'max_len = {}', 'max_len = float("nan")', 'seeds = (0, "a")', 'seeds = [True]',
    'dataset = ""', 'masks = (1,)', 'def lr(): pass', 'import os as lr',
])
def test_wrong_types_in_a_config_file(refused, line):
    err = refused('c.py', c=line)
    assert 'c.py' in err and 'command line' not in err


def test_the_message_of_a_wrong_type(refused):
    assert refused('--steps=1.5') == "error: command line: steps: wants int, got '1.5'\n"
    assert refused('c.py', c='lr = True') == 'error: c.py: lr: wants float, got True\n'


# the command line

def test_bare_flags(toy):
    assert toy('--compile')['compile'] is True
    assert toy('--compile', '--lr=1')['compile'] is True
    assert toy('--compile', 'c.py', c='steps = 2') | {'compile': None} == toy('c.py') | {'compile': None}
    assert toy('--compile', 'false')['compile'] is False
    assert toy('--compile', '--compile=False')['compile'] is False  # the last one counts


def test_negative_numbers_after_a_space(toy):
    config = toy('--low', '-1', '--lr', '-1e-3', '--max_len', '-2')
    assert (config['low'], config['lr'], config['max_len']) == (-1, -1e-3, -2)


@pytest.mark.parametrize('argv', [['--lr'], ['--lr', '--compile'], ['--dataset'], ['--dataset', '--lr=1'],
                                  ['--max_len'], ['--seeds'], ['--masks', '--compile'], ['--flags']])
def test_a_missing_value(refused, argv):
    err = refused(*argv)
    assert 'command line' in err and argv[0][2:] in err and 'no value' in err


@pytest.mark.parametrize('argument', ['--step=3', '--step', '--steps_=3'])
def test_an_unknown_option_names_the_nearest(refused, argument):
    err = refused(argument)
    assert 'command line' in err and "'steps'" in err and repr(argument[2:].split('=')[0]) in err


@pytest.mark.parametrize('argument', ['--pi=3', '--_hidden=1', '--doubled=1', '--names=x', '--a=1',
                                      '--helper', '--__file__=x', '--=3', '--', '--zzz=1'])
def test_what_is_no_knob_is_unknown(refused, argument):
    assert 'unknown name' in refused(argument)


def test_a_script_without_knobs(tmp_path):
    (tmp_path / 'script.py').write_text('x = int()\n')
    space = {'__file__': str(tmp_path / 'script.py'), 'x': 0}
    assert configure(space, []) == {}
    with pytest.raises(UserError, match="unknown name 'x'"):
        configure(space, ['--x=1'])


@pytest.mark.parametrize('argument', ['train', 'lr=3', '-lr=3', '-x', 'config', '3', ''])
def test_a_positional_that_is_no_file(refused, argument):
    assert repr(argument) in refused(argument)


def test_a_file_of_another_kind(refused, tmp_path):
    (tmp_path / 'c.json').write_text('{}')
    (tmp_path / 'folder.py').mkdir()
    assert 'c.json' in refused('c.json')
    assert 'folder.py' in refused('folder.py')


def test_a_missing_file(refused):
    assert 'config/nowhere.py' in refused('config/nowhere.py')


# precedence

def test_defaults_then_files_in_order_then_options(toy):
    one, two = 'steps = 1\nlr = 1.0', 'steps = 2\nseeds = 5'
    config = toy('--seeds=9', 'one.py', '--lr=3', 'two.py', one=one, two=two)
    assert (config['steps'], config['lr'], config['seeds'], config['dataset']) == (2, 3.0, (9,), 'toy#1')
    assert toy('two.py', 'one.py')['steps'] == 1
    assert toy('--steps=3', '--steps=4', 'one.py')['steps'] == 4


def test_types_come_from_the_script_not_from_a_file(toy):
    assert toy('c.py', '--max_len=abc', c='max_len = 512')['max_len'] == 'abc'


def test_every_setting_is_checked_even_an_overruled_one(refused):
    refused('--lr=abc', '--lr=1')
    refused('c.py', '--lr=1', c='lr = "x"')


# config files

def test_config_files_compute_and_import(toy, tmp_path):
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub' / 'beside_helper.py').write_text('BASE = 10\n')
    (tmp_path / 'sub' / 'c.py').write_text(
        'import math\nfrom math import sqrt\nimport beside_helper\nfrom pathlib import Path\n'
        'from configurator import ROOT as _root\n'
        'def double(x):\n    return 2 * x\n'
        'class Thing:\n    pass\n'
        '_n = int(sqrt(16))\nsteps = double(beside_helper.BASE) + _n\nseeds = [s + 1 for s in range(2)]\n'
        'dataset = Path(__file__).name\nlr = steps / 24 if __file__ else 0\n')
    config = toy('sub/c.py')
    assert (config['steps'], config['seeds'], config['dataset'], config['lr']) == (24, (1, 2), 'c.py', 1.0)


def test_a_config_module_hides_no_library(toy):
    assert toy('c.py', c='import colorsys\nsteps = int(colorsys.rgb_to_hsv(1, 1, 1)[2])',
               colorsys='steps = 5')['steps'] == 1


def test_a_config_sees_the_knobs_and_the_command_line(toy, refused):
    config = toy('a.py', 'b.py', '--dataset=mine', a='steps = 3', b='lr = steps / 2\nnote = dataset')
    assert config['steps'] == 3 and config['lr'] == 1.5 and config['note'] == 'mine'
    config = toy('a.py', 'b.py', '--steps=8', a='steps = 3', b='lr = steps / 2')  # what the run will have
    assert config['steps'] == 8 and config['lr'] == 4.0
    err = refused('c.py', c='steps = 2\nlr = lerning_rate / 2')
    assert 'c.py' in err and 'line 2' in err and "NameError: name 'lerning_rate' is not defined" in err


def test_an_unknown_name_in_a_file(refused):
    err = refused('c.py', c='lerning_rate = 1\n')
    assert 'c.py' in err and "'lerning_rate'" in err and 'nearest' in err
    assert "'dataset'" in refused('c.py', c='data_set = "x"')
    assert 'unknown' in refused('c.py', c='from math import pi')


@pytest.mark.parametrize('text, line, error', [
    ('\n\nsteps = 1 / 0\n', 3, 'ZeroDivisionError'),
    ('steps = 1\nsteps = = 2\n', 2, 'SyntaxError'),
    ('def f():\n    raise ValueError("two\\nlines")\n\nf()\n', 2, 'ValueError: two lines'),
    ('\nimport no_such_module\n', 2, 'ModuleNotFoundError'),
    ('x = int\nimport json\njson.loads("{")\n', 3, 'JSONDecodeError'),
    ('\nassert False\n', 2, 'AssertionError'),
])
def test_an_exception_in_a_file(refused, text, line, error):
    err = refused('c.py', c=text)
    assert f'c.py, line {line}: ' in err and error in err


def test_a_syntax_error_in_an_imported_module_is_laid_at_the_import(refused):
    err = refused('c.py', c='steps = 1\nimport broken_beside\n', broken_beside='\n\n\nx = = 1\n')
    assert 'c.py, line 2: SyntaxError' in err and 'broken_beside' in err


# where things lie

def test_paths_from_here_then_from_the_project_root(toy, tmp_path, monkeypatch):
    root = tmp_path / 'project'
    (root / 'config').mkdir(parents=True)
    (root / 'config' / 'far.py').write_text('steps = 7\n')
    monkeypatch.setattr(configurator, 'ROOT', root)
    assert toy('config/far.py')['steps'] == 7
    assert toy(str(root / 'config' / 'far.py'))['steps'] == 7
    (tmp_path / 'config').mkdir()
    (tmp_path / 'config' / 'far.py').write_text('steps = 8\n')
    assert toy('config/far.py')['steps'] == 8  # here comes first


def run_script(tmp_path, cwd, *argv):
    """A real run of a script, from another directory."""
    script = tmp_path / 'script.py'
    script.write_text('"""A real script."""\nfrom configurator import configure\n'
                      'from util.errors import run_cli\n\nlr = 1e-4  # peak\n'
                      'def main():\n    config = configure(globals())\n    print(lr, config)\nrun_cli(main)\n')
    env = os.environ | {'PYTHONPATH': str(ROOT), 'PYTHONDONTWRITEBYTECODE': '1'}
    command = [sys.executable, str(script), *argv]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def test_a_real_run_from_any_directory(tmp_path):
    (tmp_path / 'c.py').write_text('lr = 5\n')
    (tmp_path / 'elsewhere').mkdir()
    done = run_script(tmp_path, tmp_path / 'elsewhere', '../c.py')
    assert (done.returncode, done.stdout, done.stderr) == (0, "5.0 {'lr': 5.0}\n", '')


def test_a_real_error_shows_no_traceback(tmp_path):
    (tmp_path / 'c.py').write_text('lr = 1 / 0\n')
    done = run_script(tmp_path, tmp_path, 'c.py')
    assert done.returncode == 2 and done.stdout == ''
    assert done.stderr == 'error: c.py, line 1: ZeroDivisionError: division by zero\n'


# help and fail

@pytest.mark.parametrize('argv', [['--help'], ['-h'], ['--lr=abc', 'nowhere.py', '--help']])
def test_help(toy, capsys, argv):
    with pytest.raises(SystemExit) as stop:
        toy(*argv)
    out, err = capsys.readouterr()
    assert stop.value.code == 0 and err == ''
    lines = [' '.join(line.split()) for line in out.splitlines()]
    assert out.startswith('Train a toy.\n\n$ python toy.py config/small.py --lr=1e-3\n')
    assert [line[2:].split('=')[0] for line in lines if line.startswith('--')] == KNOBS
    for line in ('--lr=0.0001 peak learning rate', "--dataset='toy#1' the é data set",
                 "--note='é#é' free text", '--compile=False fuse the model # and more',
                 '--max_len=None bytes kept; None = all', "--masks=('random', 'guided') one run each"):
        assert line in lines
    order = [lines.index(line) for line in ('--steps=100 optimiser steps', 'data', '--compile=False fuse the'
             ' model # and more', 'which runs', '--seeds=(0, 1) one run each')]
    assert order == sorted(order)


def test_help_without_a_docstring(tmp_path, capsys):
    (tmp_path / 'script.py').write_text('lr = 1\n')
    with pytest.raises(SystemExit):
        configure({'__file__': str(tmp_path / 'script.py'), 'lr': 1, '__doc__': None}, ['-h'])
    assert '--lr=1' in capsys.readouterr().out


def test_a_mistake_is_one_line_and_status_2(capsys):
    with pytest.raises(SystemExit) as stop:
        run_cli(lambda: fail('one\ntwo\r\nthree'))
    assert stop.value.code == 2
    assert capsys.readouterr() == ('', 'error: one two three\n')
    with pytest.raises(ValueError, match='a bug'):  # what is not the user's keeps its traceback
        run_cli(lambda: (_ for _ in ()).throw(ValueError('a bug')))


def test_the_knobs_of_a_script_that_is_not_run(tmp_path):
    (tmp_path / 's.py').write_text('lr = 1.0  # rate\nraise SystemExit\n')
    assert configure({'__file__': str(tmp_path / 's.py')}, ['--lr=2']) == {'lr': 2.0}


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    """Flushed whole, then renamed, then the folder flushed; an error in between leaves the old one."""
    path, seen = tmp_path / 'a.txt', []
    path.write_text('old')

    def fsync(handle):
        at = os.readlink(f'/proc/self/fd/{handle}')
        seen.append((os.path.basename(at), path.read_text(), os.path.getsize(at) if os.path.isfile(at) else 0))
    monkeypatch.setattr(os, 'fsync', fsync)
    with pytest.raises(KeyError), atomic_write(path, 'w') as f:
        f.write('half')
        raise KeyError
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['a.txt'] and not seen
    with atomic_write(path, 'w') as f:
        f.write('newer')
    assert seen == [('a.txt.tmp', 'old', 5), (tmp_path.name, 'newer', 0)]


def test_nearest():
    assert nearest('guidd', {'random': 0, 'guided': 0}) == 'guided'
    assert nearest('x', []) == 'none'


# any value survives the command line

def test_round_trip(tmp_path):
    hypothesis = pytest.importorskip('hypothesis')
    pytest.importorskip('hypothesis.configuration').set_hypothesis_home_dir(tmp_path)  # no .hypothesis/ here
    st, letters = hypothesis.strategies, string.printable + 'é→'
    script = tmp_path / 'script.py'
    script.write_text("i = 0\nf = 0.0\ns = ''\nt = (0,)\n")

    @hypothesis.settings(max_examples=100, deadline=None, database=None)
    @hypothesis.given(st.integers(-2 ** 63 + 1, 2 ** 63 - 1), st.floats(allow_nan=False), st.text(letters),
                      st.lists(st.integers(-9, 9)))
    def check(i, f, s, t):
        space = {'__file__': str(script), 'i': 0, 'f': 0.0, 's': '', 't': (0,)}
        argv = ['--i', str(i), f'--f={f!r}'.replace('inf', '1e999'), f'--s={s}', f'--t={tuple(t)}']
        wanted = {'i': i, 'f': f, 's': s, 't': tuple(t)}
        assert all(same(value, wanted[name]) for name, value in configure(space, argv).items())
    check()


TYPED = """
n_train: int | None = 1000  # labelled rows
column: str | None = None  # a name
fast: bool | None = None  # None = found out
"""


@pytest.mark.parametrize('option, expected', [
    ('--n_train=5', 5), ('--n_train=1e3', 1000), ('--n_train=None', None),
    ('--column=1', '1'), ('--column=None', None), ('--column=a,b', 'a,b'),
    ('--fast', True), ('--fast=False', False), ('--fast=false', False), ('--fast=None', None)])
def test_an_annotation_types_a_knob_whose_default_is_none(tmp_path, option, expected):
    (tmp_path / 's.py').write_text(TYPED)
    space = {'__file__': str(tmp_path / 's.py'), 'n_train': 1000, 'column': None, 'fast': None}
    assert configure(space, [option])[option[2:].partition('=')[0]] == expected


@pytest.mark.parametrize('option', ['--n_train=abc', '--n_train', '--n_train=0.5', '--column', '--fast=3'])
def test_an_annotated_knob_refuses_other_types(tmp_path, option):
    (tmp_path / 's.py').write_text(TYPED)
    with pytest.raises(UserError):
        configure({'__file__': str(tmp_path / 's.py')}, [option])


# -----------------------------------------------------------------------------
# mistakes in a script

RULE = '# ' + 77 * '-'


@pytest.mark.parametrize('line', ['share = 1 / 2', 'betas = [0.9, 0.999]', "folder = Path('.')"])
def test_a_knob_that_cannot_be_read_is_no_silent_constant(tmp_path, line):
    script = tmp_path / 'script.py'
    script.write_text(f'from pathlib import Path\n{RULE}\n# ---- run\nlr = 1\n{line}\n{RULE}\nrate = lr / 2\n')
    with pytest.raises(UserError, match=re.escape(line)):
        configure({'__file__': str(script)}, [])


def test_a_knob_declared_twice(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text("norm = 'standard'\nnorm = 'layer'\n")
    with pytest.raises(UserError, match='two knobs norm'):
        configure({'__file__': str(script)}, [])
    script.write_text("SHARED_KNOBS = ('data.py',)\ndataset = 'mine'\n")
    with pytest.raises(UserError, match='declares dataset, which data.py declares too'):
        configure({'__file__': str(script)}, [])


def test_a_comment_above_a_knob_is_no_heading(tmp_path):
    """Whoever shares what stands under a heading gets all of it."""
    assert 'dropout' in defaults_of(ROOT / 'finetune.py')
    text = (ROOT / 'pretrain.py').read_text()
    changed = text.replace('\nn_layer = 3', '\n# how deep\nn_layer = 3')
    assert changed != text
    under_model, _ = read_knobs(changed, 'model')
    assert {'embed_dim', 'n_layer', 'dropout'} <= under_model.keys()
