"""
Every command that the README, RESULTS.md and the docstrings print is one that its script accepts, every file they name
exists, and what they promise of themselves holds.
"""

import re
import shlex

import pytest

from configurator import configure
from conftest import ROOT

PAGES = [ROOT / 'README.md', ROOT / 'RESULTS.md', *ROOT.glob('*.py'), *(ROOT / 'config').glob('*.py')]
COMMANDS = sorted({(page.relative_to(ROOT).as_posix(), m.group(1).strip()) for page in PAGES for m in re.finditer(
    r'^\s*(?:python|torchrun(?: --\S+)+) (\w+\.py[^\n#`]*)', page.read_text(), re.M)})


def test_there_are_commands():
    assert len(COMMANDS) > 40 and len({page for page, _ in COMMANDS}) > 20


@pytest.mark.parametrize('page, command', COMMANDS)
def test_commands_name_real_files_and_knobs(page, command):
    script, *words = shlex.split(re.split(r'   +', command)[0])  # a remark may follow after three spaces
    if script == 'prepare.py' and words and not words[0].startswith('-'):
        words[0] = f'--dataset={words[0]}'
    words = [w for w in words if w not in ('...', '--ckpt=...') and 'config/NAME.py' not in w and w[0] != '$']
    if script == 'bench.py':  # reads the configs of pretrain.py itself
        assert all((ROOT / w).exists() for w in words if w.endswith('.py'))
        words = [w for w in words if not w.endswith('.py')]
    # raises on an unknown knob, a wrong type, or a config file that is not there
    if (ROOT / script).name != 'model.py' or words:
        configure({'__file__': str(ROOT / script)}, words)


def test_the_file_map_is_the_tree():
    text = (ROOT / 'README.md').read_text()
    for path in [*ROOT.glob('*.py'), *(ROOT / 'config').glob('*.py')]:
        assert path.name in text, f'README.md does not mention {path.name}'
    for name in re.findall(r'`([\w/]+\.(?:py|txt|md))`', text):
        found = (ROOT / name).exists() or (ROOT / 'config' / name).exists()
        assert found or name.startswith('out/'), f'README.md names {name}'


@pytest.mark.parametrize('name', ['README.md', 'RESULTS.md'])
def test_pictures_are_there(name):
    pictures = re.findall(r'\]\((assets/[^)]+)\)', (ROOT / name).read_text())
    assert pictures and all((ROOT / picture).is_file() for picture in pictures)


def test_the_readme_is_short_and_its_lines_too():
    text = (ROOT / 'README.md').read_text()
    assert len(text.split()) <= 1500
    for name in ('README.md', 'RESULTS.md'):
        fence = False
        for line in (ROOT / name).read_text().splitlines():
            fence ^= line.startswith('```')
            assert fence or line.startswith('|') or len(line) <= 100 or 'http' in line, line


def test_rooms_know_only_the_rooms_below():
    """No script imports a script, but for `prepare`; a room imports none that stands above it."""
    order = ['configurator', 'masking', 'collider', 'model', 'data', 'runtime']  # from the ground up
    for path in ROOT.glob('*.py'):
        used = set(re.findall(r'^ *(?:from|import) (\w+)', path.read_text(), re.M)) & {p.stem for p in ROOT.glob('*.py')}
        allowed = order[:order.index(path.stem)] if path.stem in order else order
        extra = {'data': {'prepare', 'data'}, 'model': {'prepare'}}.get(path.stem, set())
        assert used <= set(allowed) | extra, f'{path.name} imports {used - set(allowed) - extra}'


def test_nothing_speaks_of_what_a_clone_lacks():
    for path in [*ROOT.glob('*.py'), *ROOT.glob('*.md'), *ROOT.glob('*/*.py')]:
        if path.name != 'test_readme.py':
            assert not re.search(r'\.\./shared|reference.notes', path.read_text()), path
