"""A snippet shows the words that a query has."""

from jina_embeddings_v4.late_interaction.snippets import in_markdown, snippet


def test_a_snippet_is_the_part_with_the_words_of_the_query():
    text = "The first part says\nnothing. " * 10 + "The tenant pays the rent of 900 EUR each month. " + "The end. " * 20
    found = snippet(text, "What RENT does the tenant pay?")
    assert "The tenant pays the rent of 900" in found and found.startswith("… ") and found.endswith(" …")
    assert len(found) <= 82
    assert snippet("short", "anything") == "short" and snippet("", "anything") == ""
    assert snippet(text, "zebra").startswith("The first part says nothing.")


def test_markdown_shows_the_text_as_it_is_with_the_words_of_the_query_in_bold():
    assert in_markdown("The tenant pays *900* EUR", "tenant") == "The **tenant** pays \\*900\\* EUR"
    assert in_markdown("# of tenants_é", "a tenant") == "\\# of tenants\\_é"
    assert in_markdown("1. [RENT](javascript:1)", "rent?") == "1\\. \\[**RENT**\\]\\(javascript\\:1\\)"
    assert in_markdown("", "rent") == ""
