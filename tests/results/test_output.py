from __future__ import annotations


def test_everything_is_written(fake, capsys):
    import results

    run = fake.full()
    assert results.write_all(run) == 0
    assert {"measured.csv", "provenance.json", "junit.xml", "report.html"} <= {p.name for p in run.folder.iterdir()}
    print(capsys.readouterr().out)
