from harmbench.progress import LineProgress, Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_tell_steps_and_time_left() -> None:
    lines: list[str] = []
    clock = Clock()
    with LineProgress(lines.append, clock) as progress, progress.task("all cells", 4) as task:
        clock.now = 30.0
        task.advance(1, note="combat")
    assert lines == ["all cells: 1/4, combat, 1:30 left"]


def test_inner_steps_give_a_sign_of_life_but_do_not_flood() -> None:
    lines: list[str] = []
    clock = Clock()
    progress = LineProgress(lines.append, clock)
    with progress.task("all cells", 2), progress.task("training", 100) as inner:
        for second in range(60):
            clock.now = float(second)
            inner.advance(1)
    assert 2 <= len(lines) <= 4
    assert all(line.startswith("training: ") for line in lines)


def test_silent_progress_takes_the_same_calls() -> None:
    with Progress() as progress, progress.task("x", 1) as task:
        assert task.advance(1, note="y") is None
