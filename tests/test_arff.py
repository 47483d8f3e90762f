"""util/arff.py: files of Weka and OpenML."""

import pytest
from reading import fails, read, write
from test_data import opened

HEAD = ['% a remark', '@RELATION t', '@ATTRIBUTE width NUMERIC', "@ATTRIBUTE kind {a,'b, c'}",
        '@ATTRIBUTE class {no,yes}', '@DATA']


def test_attributes_are_the_columns(tmp_path):
    (tmp_path / 'c.arff').write_text("@attribute 'two words' numeric\n@ATTRIBUTE class {p}\n@data\n1,p\n2,?\n")
    d = opened(tmp_path, tmp_path / 'c.arff', label_column='class')
    assert d.columns == ['two words'] and d.labels([0, 1]) == ['p', None]


@pytest.mark.parametrize('rows', [
    ["0.5,'b, c',yes", '1.5,a,no'], ['% inside', "0.5, 'b, c', yes", '', '1.5,a,no', '%'],
    ['0.5,"b, c",yes', '1.5,"a",no'],
    ["0.5,'b, c','yes'", ' 1.5 , a , no ']])
def test_remarks_and_commas_in_quotation_marks(tmp_path, rows):
    table = read(write(tmp_path / 'a.arff', [*HEAD, *rows]), label_column='class')
    assert table.x == [[0.5, 0], [1.5, 1]] and table.labels == ['yes', 'no']
    assert table.meta['categories'] == {'kind': {'b, c': 0, 'a': 1}}


@pytest.mark.parametrize('row, kind', [
    ("1,'it\\'s',no", "it's"), ("1,it's,no", "it's"), ('1,"x ""y""",no', 'x "y"'), ("1,'%',no", '%')])
def test_quotation_marks_in_a_cell(tmp_path, row, kind):
    table = read(write(tmp_path / 'a.arff', [*HEAD, row]), label_column='class')
    assert list(table.meta['categories']['kind']) == [kind]


@pytest.mark.parametrize('rows, word', [
    (["1,'a',\rno"], 'line 7: new-line character'), (['1,a'], 'line 7: 2 cells for 3 attributes'),
    (['{0 1, 2 yes}'], 'line 7: rows in braces'), ([], 'no rows'),
    (['?,a,yes'], "line 7, column 'width': '' is a missing number")])
def test_rows_that_are_wrong(tmp_path, rows, word):
    fails(word, read, write(tmp_path / 'a.arff', [*HEAD, *rows]), label_column='class')
