"""Where a DAG names /artifacts, local mode means the pod's own folder."""

import pytest

from cli.embedded.localpaths import localised


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/artifacts/a.txt", "/pod/a.txt"),
        ("cat /artifacts/a.txt > /artifacts/b.txt", "cat /pod/a.txt > /pod/b.txt"),
        ("ls /artifacts", "ls /pod"),
        ('open("/artifacts/x")', 'open("/pod/x")'),
        ("--out=/artifacts/x", "--out=/pod/x"),
        ("IN=/artifacts;OUT=/artifacts/", "IN=/pod;OUT=/pod/"),
        ("/data/artifacts/x", "/data/artifacts/x"),
        ("$HOME/artifacts", "$HOME/artifacts"),
        ("${HOME}/artifacts", "${HOME}/artifacts"),
        ("./artifacts ../artifacts ~/artifacts", "./artifacts ../artifacts ~/artifacts"),
        ("/artifacts2 /artifacts.txt /artifacts-old", "/artifacts2 /artifacts.txt /artifacts-old"),
        ("s3://bucket/artifacts/x", "s3://bucket/artifacts/x"),
    ],
)
def test_only_the_folder_itself_and_what_is_below_it_is_meant(text: str, expected: str) -> None:
    assert localised(text, "/pod") == expected


def test_a_folder_that_a_shell_would_take_apart_is_not_put_in() -> None:
    assert localised("cat /artifacts/x", "/my home/pod") == "cat /artifacts/x"
