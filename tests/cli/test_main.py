"""The command line: what it offers and what it takes when nothing is said."""

import pytest
from jina_embeddings_v4.cli.main import main


def help_of(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_names_the_commands_and_the_defaults(capsys):
    overview = help_of(capsys)
    for command in ("index", "search", "finetune", "doctor"):
        assert command in overview
    assert "(default: jinaai/jina-embeddings-v4)" in help_of(capsys, "index")
    assert "how many pages to find (default: 10)" in help_of(capsys, "search")
    assert "(default: 500)" in help_of(capsys, "finetune")


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["find"])
    assert "invalid choice: 'find'" in capsys.readouterr().err
