import io

from rich.console import Console

from harmbench.progress import BarProgress, LineProgress, Progress


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


def test_a_training_that_goes_on_tells_its_own_speed_and_time_left() -> None:
    lines: list[str] = []
    clock = Clock()
    with LineProgress(lines.append, clock) as progress, progress.task("training", 10_000) as task:
        task.advance(4_000)  # done before the interruption
        clock.now = 10.0
        task.advance(2_000, note="loss 0.5")
    assert lines[-1] == "training: 6000/10000, loss 0.5, 200/s, 0:20 left"
    assert "left" not in lines[0], "nothing is known of the speed yet"


def test_bars_show_images_a_second() -> None:
    progress = BarProgress()
    clock = Clock()
    progress._bars.get_time = clock
    with progress.task("training", 10_000) as task:
        for second in range(1, 5):
            clock.now = float(second)
            task.advance(250, note="loss 0.5")
        page = io.StringIO()
        Console(file=page, width=200).print(progress._bars.get_renderable())
    assert "1000/10000" in page.getvalue()
    assert "250/s" in page.getvalue()
    assert "loss 0.5" in page.getvalue()
