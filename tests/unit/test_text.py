"""Numbers as people write them."""

import pytest

import keras_pde as kp
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


@pytest.mark.parametrize("looks", [True, False])
def test_evaluations_show_a_bar_where_someone_looks(looks, monkeypatch):
    from evaluation_cases import honest_images, honest_labels, honest_target

    seen = []

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def add_task(self, *args, **kwargs):
            return 0

        def update(self, task, **values):
            seen.append(values["description"])

    monkeypatch.setattr(text, "_someone_looks", lambda: looks)
    monkeypatch.setattr(text, "_bar", lambda *columns: Bar())
    settings = {"epsilons": [0.1], "attacks": [kp.attacks.FGSM("l2")], "norm": "l2"}
    arguments = (honest_target(), honest_images(), honest_labels())
    kp.evaluate(*arguments, **settings)
    assert ("FGSM-ce at 0.1" in seen) == looks
    seen.clear()
    kp.evaluate(*arguments, **settings, progress=False)
    assert not seen


def test_notebooks_show_what_is_printed():
    listed = kp.list_models(dataset="mnist")
    assert str(listed).splitlines()[0].startswith("model") and len(listed) > 0
    assert listed._repr_html_().startswith("<pre>model")
    assert "No published" in str(kp.list_models(max_params=1))
    from evaluation_cases import honest_report

    report = honest_report()
    assert "95 % interval" in report._repr_html_() and "<pre>" in report._repr_html_()
    assert "p-value" in report.compare(report)._repr_html_()
