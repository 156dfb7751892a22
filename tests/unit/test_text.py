"""Numbers as people write them."""

from keras_pde import text


def test_percent():
    assert text.percent(0.9449) == "94.5 %"


def test_columns():
    rows = [("name", "share"), ("a", "5 %"), ("longer", "100 %")]
    assert text.columns(rows) == [
        "name    share",
        "-------------",
        "a         5 %",
        "longer  100 %",
    ]
    assert text.columns(rows, left=None)[2:] == ["a       5 %", "longer  100 %"]
    assert text.table("Title", ("a", "b"), [("1", "2")], "Note.") == (
        "Title\n\na  b\n----\n1  2\n\nNote."
    )
    assert text.markdown_table(("a", "b"), [("1", "2")]) == ["| a | b |", "|---|---|", "| 1 | 2 |"]


def test_bars_are_for_terminals(monkeypatch, capsys):
    with text.progress_bar() as report, text.transfer_bar("file", 10) as done:
        assert report is None and done(5) is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with text.progress_bar() as report:
        report("attack", 1, 2)
    with text.transfer_bar("file", 10) as done:
        done(10)
    assert capsys.readouterr().out == ""
