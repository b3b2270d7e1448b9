"""The log of one piece of work."""

import logging
from pathlib import Path

from harmbench.engine.log import FILE, LogFile, work_log


def test_a_log_is_no_open_file_between_its_lines(tmp_path: Path) -> None:
    log = work_log(tmp_path, "harmbench.test")
    log.setLevel(logging.INFO)
    for line in ("one", "two"):
        log.info(line)
        [handler] = [h for h in log.handlers if isinstance(h, LogFile)]
        assert handler.stream is None
    told = (tmp_path / FILE).read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in told] == ["one", "two"]
