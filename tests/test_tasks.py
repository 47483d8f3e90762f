"""util/tasks.py: targets inferred from files, scores, and predictions as they are written."""

import csv
import io

import numpy as np
import pytest
from test_data import opened

from data import open_dataset
from util import tasks
from util.errors import UserError
from util.metrics import METRICS
from util.tasks import infer_task

PETS = dict(target='binary', metric='accuracy', classes=['cat', 'dog'])


def table(tmp_path, labels, splits=None, val_share=0.0, test_share=0.0):
    """A data set a.csv of one column and these labels (a list, or words in a text)."""
    if isinstance(labels, str):
        labels = labels.split()
    lines = ['x,y,part']
    for i, label in enumerate(labels):
        split = splits.split()[i] if splits else 'train'
        lines.append(f'{i},{label},{split}')
    (tmp_path / 'a.csv').write_text('\n'.join(lines) + '\n')
    knobs = dict(label_column='y', data_dir=str(tmp_path / 'datasets'))
    if splits:
        knobs.update(split_column='part')
    else:
        knobs.update(drop_column='part', val_share=val_share, test_share=test_share)
    return open_dataset(str(tmp_path / 'a.csv'), **knobs)


def inferred(tmp_path, labels, target=None, metric=None, **more):
    return infer_task(table(tmp_path, labels), target, metric, ('train',), **more)


def refusal(tmp_path, labels, target=None, **more):
    with pytest.raises(UserError) as error:
        inferred(tmp_path, labels, target, **more)
    return str(error.value)


# -----------------------------------------------------------------------------
# from the labels to a task

@pytest.mark.parametrize('labels, target, metric', [
    ('0 1 1 0', 'binary', 'accuracy'), ('cat dog cat dog', 'binary', 'accuracy'),
    ('3 7 7 3', 'binary', 'accuracy'),
    ('a b c a', 'multiclass', 'accuracy'), ('1 2 5 5', 'multiclass', 'accuracy'),
    ('1 2 2.5 1', 'regression', 'rmse'), (' '.join(map(str, range(21))), 'regression', 'rmse')])
def test_a_files_target_is_inferred_and_printed(tmp_path, labels, target, metric):
    labels = labels.split() * 4
    task, rows, note = inferred(tmp_path, labels)
    assert (task['target'], task['metric']) == (target, metric) and len(rows['train']) == len(labels)
    assert f'target: {target}, as the labels have {len(set(labels))} values' in note
    positive = labels[0] if target == 'binary' else None
    note = inferred(tmp_path, labels, target, metric, positive=positive)[2]
    assert note == ''  # the user has said everything


def test_labels_that_cannot_be_learned(tmp_path):
    """One class is nothing to learn. Of classes that training lacks the rows are counted, not the classes."""
    def refused(labels, target=None):
        d = table(tmp_path, labels, splits='train ' * 6 + 'val ' * 2 + 'test')
        with pytest.raises(UserError) as error:
            infer_task(d, target, None)
        return str(error.value)
    for target in (None, 'binary', 'multiclass', 'regression'):
        message = refused('cat ' * 9, target)
        assert "all 6 training labels of a are 'cat': there is nothing to learn" in message
    message = refused('cat dog cat dog cat dog emu emu fox')
    assert message == ("2 val rows have labels outside the classes to learn, 'emu' (row 7) for one; "
                       'the classes are cat, dog')


def test_what_the_user_asks_for_must_fit(tmp_path):
    assert 'one of accuracy, ' in refusal(tmp_path, '0 1 0 1', metric='precision')
    assert 'metric=f1 does not fit target=regression' in refusal(tmp_path, '1 2 3', 'regression', metric='f1')
    assert 'binary, multiclass or regression' in refusal(tmp_path, '0 1 0 1', 'classes')
    assert 'training labels have 3 values' in refusal(tmp_path, '0 1 2', 'binary')
    assert 'the label 0.5 is no class' in refusal(tmp_path, '0 1 0.5', 'multiclass')
    assert 'positive=' in refusal(tmp_path, '0 1 2', positive='1')


# -----------------------------------------------------------------------------
# text among numbers

NUMBERS = [f'{value:.3f}' for value in np.random.default_rng(0).normal(size=60)]


@pytest.mark.parametrize('target', [None, 'regression'])
def test_one_text_among_numbers_is_named(tmp_path, target):
    """A single '<0.01' once turned a regression into sixty classes without a word."""
    message = refusal(tmp_path, [*NUMBERS[:5], '<0.01', *NUMBERS[5:], '<0.01'], target)
    assert "60 of 62 labels of a are numbers; not a number: '<0.01' (row 6)." in message
    assert ('--target=multiclass' in message) == (target is None)
    assert ('target=regression, but' in message) == (target == 'regression')


def test_text_is_no_regression(tmp_path):
    message = refusal(tmp_path, 'cat dog emu cat', 'regression')
    assert "the labels of a are text: 'cat' (row 1), 'dog' (row 2), 'emu' (row 3)" in message


def test_text_among_numbers_may_be_meant(tmp_path):
    task, _, _ = inferred(tmp_path, [*NUMBERS, '<0.01'], 'multiclass')
    assert len(task['classes']) == 61
    # few whole numbers are classes beside text; the user is told
    task, _, note = inferred(tmp_path, '1 2 3 unknown ' * 5)
    assert task['target'] == 'multiclass' and task['classes'] == ['1', '2', '3', 'unknown']
    assert "15 labels are numbers and 5 are text ('unknown' (row 4)): all are taken for classes" in note


@pytest.mark.parametrize('first, digits', [('7', '007'), (str(2 ** 53 + 1), str(2 ** 53 + 2))])
def test_whole_numbers_that_are_kept_as_names_are_no_regression(tmp_path, first, digits):
    labels = [first, digits, *[str(10 ** 17 + i) for i in range(40)]]
    for target in (None, 'regression'):
        message = refusal(tmp_path, labels, target)
        assert 'are kept as names' in message and 'write them as 1.5e18' in message
    assert len(inferred(tmp_path, labels, 'multiclass')[0]['classes']) == 42


def test_classes_that_differ_in_capitals_are_told(tmp_path):
    _, _, note = inferred(tmp_path, 'TRUE True no TRUE')
    assert "some classes differ in capitals alone: 'TRUE' and 'True'" in note
    _, _, note = inferred(tmp_path, 'a A b B c C')
    in_order = note.replace("'A' and 'a'", "'a' and 'A'")
    assert note.count('capitals') == 1 and "'a' and 'A', and 2 more pairs" in in_order
    assert 'capitals' not in inferred(tmp_path, 'TRUE no no TRUE')[2]


def test_a_row_is_named_as_a_row_of_the_file_where_it_is_one(tmp_path):
    alone = refusal(tmp_path, ['1.5', '2.5', *map(str, range(30)), 'emu'], 'regression')
    assert "'emu' (row 33)" in alone
    (tmp_path / 'b.csv').write_text('a,y\n1,2\n2,inf\n')
    (tmp_path / 'a.csv').write_text('a,y\n1,2\n2,3\n')
    with pytest.raises(UserError, match='row 4 of the prepared data set has the label inf'):
        opened(tmp_path, tmp_path / 'a.csv', label_column='y', val_file=str(tmp_path / 'b.csv'))
    with pytest.raises(UserError, match='row 2 has the label inf'):
        opened(tmp_path, tmp_path / 'b.csv', label_column='y')


def test_a_rare_amount_outside_the_training_rows(tmp_path):
    """Few whole amounts are taken for classes: the error says what to do if they are none."""
    d = table(tmp_path, '100 200 300 100 200 300 700', splits='train ' * 6 + 'test')
    with pytest.raises(UserError) as error:
        infer_task(d, None, None, ('train', 'test'))
    assert '1 test rows' in str(error.value) and '700 (row 7)' in str(error.value)
    assert 'pass --target=regression' in str(error.value)


@pytest.mark.parametrize('value, text', [
    (0.76543, '0.7654'), (0.0, '0.0000'), (-0.5, '-0.5000'), (2.345e-12, '2.345e-12'), (1.5e18, '1.500e+18'),
    (492.25, '492.2500'), (float('nan'), 'nan')])
def test_scores_show_four_digits_at_any_scale(value, text):
    assert tasks.format_score(value) == text


@pytest.mark.parametrize('word', ['NA', 'n/a', 'NaN', 'null', '?', 'Na'])
def test_a_missing_label_among_texts_is_no_silent_class(tmp_path, word):
    task, _, note = inferred(tmp_path, f'cat dog cat {word} dog {word} cat')
    if word in task['classes']:
        assert f"{word!r} is one of the classes, with 2 rows" in note and 'leave these cells empty' in note
    else:  # read as a missing label, which is no class either
        assert task['classes'] == ['cat', 'dog']


# -----------------------------------------------------------------------------
# the positive class

@pytest.mark.parametrize('labels, positive, reason', [
    ('inactive ' * 19 + 'active', 'active', 'the rarer one (1 of 20 training labels)'),
    ('a ' * 19 + 'z', 'z', 'the rarer one (1 of 20 training labels)'),
    ('a z ' * 10, 'z', 'the later in sorted order'),
    ('0 ' * 5 + '1 ' * 15, 1.0, 'positive class: 1;'),  # as in scikit-learn, though it is the more frequent
    ('-1 ' * 5 + '1 ' * 15, 1.0, 'positive class: 1;'),
    ('False ' * 5 + 'True ' * 15, 'True', "positive class: 'True';"),
    ('2 ' * 15 + '1 ' * 5, 1.0, 'the rarer one (5 of 20 training labels)')])
def test_the_positive_class_is_chosen_and_printed(tmp_path, labels, positive, reason):
    task, _, note = inferred(tmp_path, labels)
    assert task['positive'] == positive and type(task['positive']) is type(positive)
    assert reason in note and '--positive=' in note


def test_the_user_may_name_the_positive_class(tmp_path):
    labels = 'inactive ' * 19 + 'active'
    task, _, note = inferred(tmp_path, labels, positive='inactive')
    assert task['positive'] == 'inactive' and 'positive' not in note
    assert inferred(tmp_path, '0 1 1 0', positive='0')[0]['positive'] == 0.0
    assert 'none of the classes: active, inactive' in refusal(tmp_path, labels, positive='Active')
    with pytest.raises(UserError, match='here the target is regression'):
        tasks.with_positive(dict(target='regression'), 'a')


def test_f1_is_that_of_the_positive_class():
    """19 of 20 rows are inactive: predicting that for all has an F1 of 0.97, or of 0."""
    labels = ['inactive'] * 19 + ['active']
    task = dict(target='binary', metric='f1', classes=['active', 'inactive'])
    always_inactive = np.ones((20, 1))
    active = {**task, 'positive': 'active'}
    inactive = {**task, 'positive': 'inactive'}
    assert tasks.score(active, labels, always_inactive) == 0
    assert tasks.score(inactive, labels, always_inactive) == pytest.approx(38 / 39)
    assert tasks.score(task, labels, always_inactive) == pytest.approx(38 / 39)  # an old checkpoint: as ever
    assert tasks.metric_title(active, 'f1') == "f1 of 'active'"
    assert tasks.metric_title({**task, 'classes': [0.0, 1.0]}, 'f1') == 'f1 of 1'
    assert tasks.metric_title(active, 'accuracy') == 'accuracy'
    # of the other metrics none depends on it
    p = np.random.default_rng(0).normal(size=(20, 1))
    for name in ('accuracy', 'roc_auc', 'log_loss', 'matthews'):
        assert tasks.scores(active, labels, p)[name] == tasks.scores(inactive, labels, p)[name]


@pytest.mark.parametrize('positive', [0, 1])
def test_f1_of_either_class_is_scikit_learns(positive):
    sk = pytest.importorskip('sklearn.metrics')
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 99)
    p = rng.normal(size=(99, 1))
    labels = [PETS['classes'][c] for c in y]
    predicted = [PETS['classes'][int(logit > 0)] for logit in p[:, 0]]
    name = PETS['classes'][positive]
    ours = tasks.score({**PETS, 'metric': 'f1', 'positive': name}, labels, p)
    assert ours == pytest.approx(sk.f1_score(labels, predicted, pos_label=name))


# -----------------------------------------------------------------------------
# scores

def test_score_goes_back_to_the_labels_units():
    p = np.array([[0.0], [1.0]])
    task = dict(target='regression', metric='rmse', mean=10.0, std=2.0)
    assert tasks.score(task, [10.0, 12.0], p) == 0
    assert tasks.score(PETS, ['cat', 'dog'], p) == 1
    with pytest.raises(UserError, match="'bird'"):
        tasks.score(PETS, ['cat', 'bird'], p)


def test_text_labels_for_a_regression_end_in_one_line():
    task = dict(target='regression', metric='rmse', mean=10.0, std=2.0)
    with pytest.raises(UserError, match="predicts numbers, but 1 of 2 labels are text, 'cat' for one"):
        tasks.scores(task, [10.0, 'cat'], np.zeros((2, 1)))


def test_all_scores_of_one_pass():
    p = np.array([[2.0], [-1.0], [0.5]])
    task = {**PETS, 'metric': 'f1'}
    values = tasks.scores(task, ['dog', 'cat', 'cat'], p)
    assert list(values) == ['f1', 'accuracy', 'log_loss', 'roc_auc', 'matthews']
    assert values['accuracy'] == 2 / 3
    assert 'roc_auc' not in tasks.scores(task, ['dog'] * 3, p)  # which needs both classes
    task = dict(target='regression', metric='r2', classes=None, mean=1.0, std=2.0)
    assert tasks.scores(task, [5.0, -1.0, 2.0], p) == dict(r2=1.0, rmse=0.0, mae=0.0, spearman=1.0)


def test_predictions_are_probabilities_or_in_the_labels_units():
    p = np.array([[1.0], [-2.0]])
    np.testing.assert_allclose(tasks.to_predictions(PETS, p)[:, 1], 1 / (1 + np.exp(-p[:, 0])))
    p = np.log([[0.2, 0.3, 0.5]]) + 700
    np.testing.assert_allclose(tasks.to_predictions({**PETS, 'target': 'multiclass'}, p), [[0.2, 0.3, 0.5]])
    task = dict(target='regression', mean=10.0, std=2.0)
    assert tasks.to_predictions(task, np.array([[1.5]])).tolist() == [13.0]


@pytest.mark.parametrize('target, y, expected', [
    ('binary', [0, 1, 1, 1], 0.75), ('multiclass', [2, 2, 0, 1], 0.5),
    ('regression', [1.0, 3.0, 5.0], np.sqrt(8 / 3))])
def test_the_constant_baseline(target, y, expected):
    task = dict(target=target, metric='accuracy', classes=[0.0, 1.0, 2.0])
    if target == 'binary':
        task.update(classes=[0.0, 1.0])
    if target == 'regression':
        task.update(metric='rmse', classes=None, mean=3.0, std=9.0)
    p = tasks.baseline_logits(task, np.array(y), len(y))
    labels = [float(value) for value in y]
    assert np.isclose(tasks.score(task, labels, p), expected) and tasks.all_alike(task, p)
    p[0, 0] += -5 if target == 'binary' else 5
    assert not tasks.all_alike(task, p)


@pytest.mark.parametrize('metric', METRICS)
def test_selection_keeps_what_is_better(metric):
    higher, lower = (tasks.selection_score(dict(metric=metric), value) for value in (0.9, 0.1))
    assert (higher > lower) == METRICS[metric].higher_is_better


# -----------------------------------------------------------------------------
# checkpoints


# -----------------------------------------------------------------------------
# numbers and labels in a file

def test_a_number_reads_back_the_same():
    rng = np.random.default_rng(0)
    values = [0.0, -0.0, 3.0, -2.5, 1e16, 1e-7, 5e-324, 1.7e308, 2.0 ** 53, 1700000030.123456]
    values += (1.7e9 + 500 * rng.normal(size=1000)).tolist() + rng.normal(size=1000).tolist()
    for value in values:
        assert float(tasks.format_number(value)) == value
    assert [tasks.format_number(v) for v in (3, 3.0, 0.1, 1e16)] == ['3', '3', '0.1', '1e+16']
    assert tasks.format_number(np.float64(2.5)) == '2.5'


def test_scores_recomputed_from_a_written_file_are_the_printed_ones():
    """A target near 1.7e9 that varies by some hundreds once became 1.7e+09 in every row."""
    rng = np.random.default_rng(0)
    labels = (1.7e9 + 500 * rng.normal(size=200)).tolist()
    task = dict(target='regression', metric='rmse', classes=None, mean=1.7e9, std=492.0)
    p = rng.normal(size=(200, 1)).astype(np.float32)
    text = io.StringIO()
    csv.writer(text).writerows([tasks.format_number(v)] for v in tasks.to_predictions(task, p))
    read = np.array([float(line) for line in text.getvalue().split()])
    for name, value in tasks.scores(task, labels, p).items():
        assert METRICS[name].function(np.array(labels), read) == value


def test_labels_are_written_as_the_file_has_them():
    labels = ['cat', 3.0, 0.5, 12345678901234567.0, None]
    assert [tasks.format_label(v) for v in labels] == ['cat', '3', '0.5', '1.2345678901234568e+16', '']


@pytest.mark.parametrize('text, safe', [
    ('=1+1', "'=1+1"), ('=HYPERLINK(x)', "'=HYPERLINK(x)"), ('@SUM(A1)', "'@SUM(A1)"), ('+cmd|x', "'+cmd|x"),
    ('-cmd', "'-cmd"), (' =1', "' =1"), ('+', '+'), ('-', '-'), ('+/-', '+/-'), ('-/-', '-/-'), ('-OH', "'-OH"),
    ('-1.5', '-1.5'), ('+2e3', '+2e3'), ('', ''),
    ('cat', 'cat'), ('a=b', 'a=b')])
def test_a_spreadsheet_runs_no_cell(text, safe):
    assert tasks.spreadsheet_safe(text) == safe


def test_a_model_whose_folders_were_numbers_is_scored():
    """Made before each folder's name was a class."""
    assert tasks.class_numbers(['8', '7'], [7.0, 8.0]).tolist() == [1, 0]
    with pytest.raises(UserError, match='outside the classes'):
        tasks.class_numbers(['07'], [7.0, 8.0])
