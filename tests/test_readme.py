"""
Every command that the README and the docstrings print is one that its script accepts.
Every file they name exists.
"""

import re
import runpy
import shlex

import pytest

from configurator import configure
from conftest import ROOT

PAGES = [ROOT / 'README.md', *ROOT.glob('*.py'), *(ROOT / 'config').glob('*.py')]
SCRIPTS = {name: None for name in ('pretrain.py', 'finetune.py', 'eval.py', 'data.py', 'bench.py')}
COMMANDS = sorted({(page.relative_to(ROOT).as_posix(), m.group(1).strip()) for page in PAGES for m in re.finditer(
    r'^\s*(?:python|torchrun(?: --\S+)+) ((?:pretrain|finetune|eval|data|bench)\.py[^\n#`]*)', page.read_text(), re.M)})


def test_there_are_commands():
    assert len(COMMANDS) > 15


@pytest.mark.parametrize('page, command', COMMANDS)
def test_commands_name_real_files_and_knobs(page, command):
    script, *words = shlex.split(re.split(r'   +', command)[0])  # a remark may follow after three spaces
    if SCRIPTS[script] is None:
        SCRIPTS[script] = {**runpy.run_path(str(ROOT / script), run_name='a test'), '__file__': str(ROOT / script)}
    if script == 'data.py' and words and not words[0].startswith('-'):
        words[0] = f'--dataset={words[0]}'
    words = [w for w in words if w not in ('...', '--ckpt=...') and 'config/NAME.py' not in w and w[0] != '$']
    if script == 'bench.py':  # reads the configs of pretrain.py itself
        assert all((ROOT / w).exists() for w in words if w.endswith('.py') and '/' in w)
        words = [w for w in words if not w.endswith('.py')]
    # exits on an unknown knob, a wrong type, or a config file that is not there
    configure(dict(SCRIPTS[script]), words)


def test_the_file_map_is_the_tree():
    text = (ROOT / 'README.md').read_text()
    for path in [*ROOT.glob('*.py'), *(ROOT / 'config').glob('*.py')]:
        assert path.name in text, f'README.md does not mention {path.name}'
    for name in re.findall(r'`([\w/]+\.(?:py|txt|md))`', text):
        found = (ROOT / name).exists() or (ROOT / 'config' / name).exists()
        assert found or name.startswith('out/'), f'README.md names {name}'


def test_pictures_are_there_and_nothing_is_left_to_fill_in():
    text = (ROOT / 'README.md').read_text()
    assert '@@' not in text
    pictures = re.findall(r'\]\((assets/[^)]+)\)', text)
    assert pictures and all((ROOT / name).is_file() for name in pictures)


def test_the_readme_knobs_are_the_scripts():
    """A line '`name` = default' in the README, where there is one, is what the script says."""
    text = (ROOT / 'README.md').read_text()
    source = (ROOT / 'pretrain.py').read_text()
    for name, value in re.findall(r'`(\w+) = ([^`]+)`', text):
        assert re.search(rf'^{name}(?:: [^=]+)? = {re.escape(value)}\s', source, re.M), f'{name} = {value}'
