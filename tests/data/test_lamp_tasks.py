"""Queries of LaMP's inputs by their markers, and the table of tasks."""

import pytest

from rlft.data.lamp_tasks import LAMP_2_NEWS, LAMP_TASKS, LampTask

TASKS = [*LAMP_TASKS.values(), LAMP_2_NEWS]

PUBLISHED = {
    2: "Which tag among the following? tags: [sci-fi, comedy] description:",
    3: "What is the score of the following review on a scale of 1 to 5? review:",
    4: "A headline for the following article:",
    5: "A title for the following abstract of a paper:",
    6: "A subject for the following email:",
    7: "Paraphrase the following tweet:",
}


def test_tasks_are_numbered_and_named_apart() -> None:
    assert [task.number for task in LAMP_TASKS.values()] == list(LAMP_TASKS) == [1, 2, 3, 4, 5, 6, 7]
    assert LAMP_2_NEWS.number == 2
    assert len({task.name for task in TASKS}) == 8


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_task_is_whole(task: LampTask) -> None:
    assert (task.marker is None) == (task.number == 1)
    assert (task.target is None) == (task.number == 7)
    assert (task.labels is None) == (task.number > 3) == (task.metrics == ("rouge1", "rougeL"))
    if task.labels is not None:
        assert len(set(task.labels)) == len(task.labels) == {1: 2, 2: 15, 3: 5}[task.number]


@pytest.mark.parametrize("number", PUBLISHED)
def test_the_first_marker_counts_and_the_text_may_hold_it_again(number: int) -> None:
    marker = LAMP_TASKS[number].marker
    text = f"one {marker} two: it's “{{'title': 'x'}}”\nthree"
    assert LAMP_TASKS[number].query_of(f"{PUBLISHED[number]}  {text} ") == text


@pytest.mark.parametrize("task", [task for task in TASKS if task.marker], ids=lambda task: task.name)
def test_missing_markers_and_queries_are_refused(task: LampTask) -> None:
    with pytest.raises(ValueError, match=f"no '{task.marker}' in the input"):
        task.query_of("a text without it")
    with pytest.raises(ValueError, match=f"nothing after '{task.marker}' in the input"):
        task.query_of(f"instruction {task.marker} \n")


@pytest.mark.parametrize(
    ("first", "second"),
    [("A b", "C d"), ('On "deep" nets', 'Why "so" deep?'), ('"Quoted"', "plain"), ("two\nlines", "x"), ("[1] a", "b")],
)
def test_references_may_hold_quotation_marks(first: str, second: str) -> None:
    asked = f'The author of "A "fine" title", which reference? Answer [1] or [2]. [1]: "{first}" [2]: "{second}"'
    assert LAMP_TASKS[1].query_of(asked) == f"{first} {second}"


@pytest.mark.parametrize("asked", ['of "T", [1]: "a"', 'of "T", [2]: "b" [1]: "a"', "of T, [1]: a [2]: b"])
def test_missing_references_are_refused(asked: str) -> None:
    with pytest.raises(ValueError, match="does not end in"):
        LAMP_TASKS[1].query_of(asked)
