"""The page that explains the REST interface: HTML without scripts, so that it works without the internet."""

from __future__ import annotations

import json
from html import escape
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The Content-Security-Policy that the page is served with: it loads nothing."""

_METHODS = ("get", "put", "post", "delete")

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c2128; background: #fff }
h2 { border-bottom: 1px solid #c8ccd2; margin-top: 2.5rem }
details { margin: .4rem 0; border: 1px solid #c8ccd2; border-radius: 6px }
summary { padding: .45rem .8rem; cursor: pointer }
details > div { padding: 0 .8rem .8rem; overflow-x: auto }
code, pre { font: 14px/1.45 ui-monospace, monospace }
pre { background: #f3f4f6; padding: .6rem; border-radius: 6px; overflow-x: auto }
table { border-collapse: collapse } td, th { text-align: left; padding: .15rem 1rem .15rem 0; vertical-align: top }
b.method { display: inline-block; min-width: 4.2rem }
@media (prefers-color-scheme: dark) {
  body { color: #d5d9de; background: #15181c } pre { background: #20252b } a { color: #8ab4f8 } }
"""


def render(schema: dict[str, Any]) -> str:
    """The whole page for an OpenAPI document."""
    info = schema["info"]
    by_tag: dict[str, list[str]] = {}
    for path, operations in schema["paths"].items():
        for method in _METHODS:
            if method in operations:
                operation = operations[method]
                tag = operation.get("tags", ["other"])[0]
                by_tag.setdefault(tag, []).append(_operation(schema, method, path, operation))
    sections = "".join(f"<h2>{escape(tag)}</h2>{''.join(parts)}" for tag, parts in by_tag.items())
    title = f"{escape(info['title'])} {escape(info['version'])}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}: REST</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{escape(info.get('description', ''))}</p>"
        f'<p>For programs: <a href="/openapi.json">openapi.json</a></p>{sections}</html>'
    )


def _operation(schema: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"<p>{escape(operation['description'])}</p>"] if operation.get("description") else []
    if parameters := operation.get("parameters"):
        rows = [
            (f"{p['name']} ({p['in']}{'' if p.get('required') else ', optional'})", p.get("description", ""))
            for p in parameters
        ]
        parts.append(_table(rows))
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body and body.get("properties"):
        parts.append("<p>Body:</p>" + _fields(schema, body))
    parts.append(f"<pre>{escape(_curl(method, path, operation, body))}</pre><p>Answers:</p>")
    parts.append(_table([(status, r["description"]) for status, r in sorted(operation["responses"].items())]))
    answers = _success_schema(operation)
    for answer in answers.get("anyOf", [answers]):
        success = _resolve(schema, answer)
        if success.get("properties"):
            parts.append("<p>Fields of the answer:</p>" + _fields(schema, success))
    heading = f'<b class="method">{method.upper()}</b><code>{escape(path)}</code> — {escape(operation["summary"])}'
    return f"<details><summary>{heading}</summary><div>{''.join(parts)}</div></details>"


def _success_schema(operation: dict[str, Any]) -> dict[str, Any]:
    for status in ("200", "202"):
        content = operation["responses"].get(status, {}).get("content", {})
        found: dict[str, Any] = content.get("application/json", {}).get("schema", {})
        if found:
            return found
    return {}


def _curl(method: str, path: str, operation: dict[str, Any], body: dict[str, Any] | None) -> str:
    """A command that a reader can paste after putting in their own values."""
    query = "&".join(
        f"{p['name']}=…" for p in operation.get("parameters", []) if p["in"] == "query" and p.get("required")
    )
    command = "curl" if method == "get" else f"curl -X {method.upper()}"
    url = f"http://localhost:8443{path}{'?' + query if query else ''}"
    if operation.get("requestBody", {}).get("content", {}).get("application/octet-stream"):
        return f"{command} '{url}' --data-binary 'the value'"
    if body and body.get("required"):
        example = {name: body["properties"][name].get("examples", ["…"])[0] for name in body["required"]}
        return f"{command} '{url}' -d '{json.dumps(example, ensure_ascii=False)}'"
    return f"{command} '{url}'"


def _fields(schema: dict[str, Any], described: dict[str, Any]) -> str:
    needed = described.get("required", [])
    rows = []
    for name, field in described["properties"].items():
        default = "" if name in needed or "default" not in field else f", default {json.dumps(field['default'])}"
        rows.append((name, _type(schema, field) + default))
    text = f"<p>{escape(described['description'])}</p>" if described.get("description") else ""
    return text + _table(rows)


def _type(schema: dict[str, Any], field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(schema, option) for option in field["anyOf"])
    resolved = _resolve(schema, field)
    if resolved.get("type") == "array":
        return f"array of {_type(schema, resolved.get('items', {}))}"
    if "$ref" in field:
        names = ", ".join(resolved.get("properties", {}))
        return f"object ({names})"
    return str(resolved.get("type", "any"))


def _resolve(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    reference = field.get("$ref", "")
    if not reference:
        return field
    found: dict[str, Any] = schema["components"]["schemas"][reference.rpartition("/")[2]]
    return found


def _table(rows: list[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td><code>{escape(left)}</code><td>{escape(right)}" for left, right in rows)
    return f"<table>{cells}</table>"
