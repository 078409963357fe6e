"""Short programs, in Python and JavaScript."""

# Of each action: the value that it begins with, the body of its loop, what it returns, and its compact form.
_PYTHON = {
    "sum": ("total = 0", "total += {one}", "total", "sum({all})"),
    "count": ("count = 0", "count += 1", "count", "len({all})"),
    "print": (None, "print({one})", None, "print(*{all})"),
    "sort": ("done = []", "done = sorted([*done, {one}])", "done", "sorted({all})"),
    "filter": ("kept = []", "if {one}:\n            kept.append({one})", "kept", "[*filter(None, {all})]"),
    "reverse": ("turned = []", "turned.insert(0, {one})", "turned", "{all}[::-1]"),
    "find": (None, "if {one} == key:\n            return {one}", "None", "{all}.index(key)"),
    "copy": ("copy = []", "copy += [{one}]", "copy", "list({all})"),
}
_JAVASCRIPT = {
    "sum": ("let total = 0;", "total += {one};", "total", "{all}.reduce(\n    (a, b) => a + b, 0)"),
    "count": ("let count = 0;", "count++;", "count", "{all}.length"),
    "print": (None, "console.log({one});", None, "{all}.forEach(x =>\n    console.log(x))"),
    "sort": ("let done = [];", "done = [...done, {one}].sort();", "done", "{all}.toSorted()"),
    "filter": ("let kept = [];", "if ({one})\n      kept.push({one});", "kept", "{all}.filter(Boolean)"),
    "reverse": ("let turned = [];", "turned.unshift({one});", "turned", "{all}.toReversed()"),
    "find": (None, "if ({one} == key)\n      return {one};", "null", "{all}.indexOf(key)"),
    "copy": ("let copy = [];", "copy.push({one});", "copy", "[...{all}]"),
}


def snippet(language, action, things, style):
    """Returns a short program.

    Args:
        language: one of :data:`pages.documents.LANGUAGES`
        action: one of :data:`pages.documents.ACTIONS`
        things: one of :data:`pages.documents.THINGS`
        style: one of :data:`pages.documents.STYLES`
    """
    is_python = language == "Python"
    start, step, result, short = (_PYTHON if is_python else _JAVASCRIPT)[action]
    names = {"one": things[0], "all": things}
    arguments = f"{things}, key" if action == "find" else things
    lines = [
        f"def {action}_{things}({arguments}):" if is_python else f"function {action}{things.title()}({arguments}) {{"
    ]
    indent, end = ("    ", "") if is_python else ("  ", ";")

    if style == "short":
        lines.append(f"{indent}return {short.format(**names)}{end}")
    else:
        lines += [indent + start] if start else []
        lines.append(
            f"{indent}for {things[0]} in {things}:" if is_python else f"{indent}for (let {things[0]} of {things}) {{"
        )
        lines += (indent * 2 + step.format(**names)).split("\n")
        lines += [] if is_python else [indent + "}"]
        lines += [f"{indent}return {result}{end}"] if result else []
    return "\n".join(lines + ([] if is_python else ["}"]))
