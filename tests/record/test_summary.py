"""The table at the end of a run."""

from rlft.record import summary_table


def test_columns_align_and_several_lines_stay_in_their_column() -> None:
    table = summary_table([("accuracy", "0.47 -> 0.93"), ("load it", "from peft import x\nx()"), ("note", "")])
    assert table.splitlines() == [
        "----------------------------",
        "accuracy  0.47 -> 0.93",
        "load it   from peft import x",
        "          x()",
        "note",
        "----------------------------",
    ]


def test_no_rows_no_table() -> None:
    assert summary_table([]) == ""
