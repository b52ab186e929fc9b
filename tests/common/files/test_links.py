"""Files of an output folder stay in it."""

from pathlib import Path

import pytest

from common.files.links import inside


@pytest.mark.parametrize("name", ["../a.png", "a/../../b.png", "/etc/a.png", "a/../b.png"])
def test_a_name_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leads out of it"):
        inside(tmp_path / "out", name)


@pytest.mark.parametrize("name", ["sub/a.png", "sub/deep/a.png"])
def test_a_linked_sub_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    assert inside(tmp_path / "out", name) == tmp_path / "out" / name
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"sub is a link: files would be written to {tmp_path}/elsewhere\. Remove it"):
        inside(tmp_path / "out", name)


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert inside(tmp_path / "out", "sub/a.png") == tmp_path / "out" / "sub" / "a.png"
