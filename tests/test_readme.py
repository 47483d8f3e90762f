"""
Every command that the README, RESULTS.md and the docstrings print is one that its script accepts, every file
they name exists, and what they promise of themselves holds.
"""

import ast
import re
import shlex
from graphlib import TopologicalSorter

import numpy as np
import pytest
from conftest import ROOT

from configurator import configure

PAGES = [ROOT / 'README.md', ROOT / 'docs/RESULTS.md',
         *ROOT.glob('*.py'), *ROOT.glob('util/*.py'), *(ROOT / 'config').glob('*.py')]
COMMAND = r'^\s*(?:python|torchrun(?: --\S+)+) (\w+\.py[^\n#`]*|-m util\.bench[^\n#`]*)'
COMMANDS = sorted({(page.relative_to(ROOT).as_posix(), m.group(1).strip())
                   for page in PAGES for m in re.finditer(COMMAND, page.read_text(), re.M)})


def test_there_are_commands():
    assert len(COMMANDS) > 40 and len({page for page, _ in COMMANDS}) > 20


@pytest.mark.parametrize('page, command', COMMANDS)
def test_commands_name_real_files_and_knobs(page, command):
    command = command.replace('-m util.bench', 'util/bench.py')
    script, *words = shlex.split(re.split(r'   +', command)[0])  # a remark may follow after three spaces
    if script == 'data.py' and words and not words[0].startswith('-'):
        words[0] = f'--dataset={words[0]}'
    words = [w for w in words if w not in ('...', '--ckpt=...') and 'config/NAME.py' not in w and w[0] != '$']
    if script == 'util/bench.py':  # reads the configs of pretrain.py itself
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


@pytest.mark.parametrize('name', ['README.md', 'docs/RESULTS.md'])
def test_pictures_are_there(name):
    page = ROOT / name
    pictures = re.findall(r'\]\(([^)]*assets/[^)]+)\)', page.read_text())
    assert pictures and all((page.parent / picture).is_file() for picture in pictures)


def test_the_readme_is_short_and_its_lines_too():
    text = (ROOT / 'README.md').read_text()
    words = [word for word in text.split() if word != '|']
    assert len(words) <= 1800
    for name in ('README.md', 'docs/RESULTS.md'):
        fence = False
        for line in (ROOT / name).read_text().splitlines():
            fence ^= line.startswith('```')
            assert fence or line.startswith('|') or len(line) <= 100 or 'http' in line, line


def imported(path):
    """The modules of the project that a file imports at its top: {'masking', 'util.files'}."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            if node.module == 'util':
                found |= {f'util.{alias.name}' for alias in node.names}
            else:
                found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


MODULES = {path.relative_to(ROOT).as_posix()[:-3].replace('/', '.'): path
           for path in [*ROOT.glob('*.py'), *(ROOT / 'util').glob('*.py')]}
ABOVE = {'data', 'pretrain', 'finetune', 'eval'}  # util knows nothing of them
EXCEPTED = {'util.bench': {'data'}}


def test_util_does_not_import_the_stages():
    for name, path in MODULES.items():
        if name.startswith('util.'):
            wrong = (imported(path) & ABOVE) - EXCEPTED.get(name, set())
            assert not wrong, f'{name} imports {wrong}'


def test_no_module_imports_itself_in_a_circle():
    # CycleError names a circle
    TopologicalSorter({name: imported(path) for name, path in MODULES.items()}).prepare()


# may be missing, so imported where they are used
OPTIONAL = {'PIL', 'matplotlib', 'rdkit', 'pyarrow', 'fcntl', 'transformers'}


def test_imports_inside_functions_are_of_optional_packages_alone():
    for path in [*MODULES.values(), *(ROOT / 'config').glob('*.py')]:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)) and node not in tree.body:
                aliases = [alias.name for alias in node.names]
                names = [node.module] if isinstance(node, ast.ImportFrom) else aliases
                inside = {name.split('.')[0] for name in names}
                assert inside <= OPTIONAL, f'{path.name}, line {node.lineno}: import inside a function'


def test_nothing_speaks_of_what_a_clone_lacks():
    for path in [*ROOT.glob('*.py'), *ROOT.glob('*.md'), *ROOT.glob('*/*.py')]:
        if path.name != 'test_readme.py':
            assert not re.search(r'\.\./shared|reference.notes', path.read_text()), path


def test_the_python_example_gives_what_eval_writes(run, tmp_path):
    rng = np.random.default_rng(0)
    lines = ['a,b,c,y', *[f'{a:.4f},{b:.4f},{c:.4f},{int(a > 0)}' for a, b, c in rng.normal(size=(80, 3))]]
    (tmp_path / 'my.csv').write_text('\n'.join(lines) + '\n')
    run('pretrain.py', '--dataset=my.csv', '--label_column=y', '--max_steps=2', '--batch_size=16',
        '--device=cpu')
    run('eval.py', '--ckpt=out/my/guided', '--embed=my.csv', '--device=cpu')
    example, = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/DATA.md').read_text(), re.S)
    names = {}
    exec(example, names)
    written = np.load('my.embeddings.npy')
    np.testing.assert_allclose(names['vectors'].numpy(), written[:64], atol=1e-5)
